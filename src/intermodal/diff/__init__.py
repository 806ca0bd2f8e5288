"""Two images side by side: packages, layers, sizes, settings, files, and golden predictions with their deviation.

Takes two images, from the local store or from image layouts, hands on a `Report`. Nothing is run and nothing is
unpacked; layers that both have are not even read. `oci.compare` explains byte by byte; this says what it means.
"""

from __future__ import annotations

from intermodal.diff.report import Report
from intermodal.diff.room import diff
from intermodal.diff.sides import Side, find

__all__ = ["Report", "Side", "diff", "find"]
