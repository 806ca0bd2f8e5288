"""Does a container pay off for this model? One honest sentence.

A container pays off where the environment matters: a pickle that only one version reads, several packages, code of
one's own. A data-only file of a portable format with one dependency is as well served without.
"""

from __future__ import annotations

from intermodal.rooms.inspect.formats.interface import Found

SMALL_BYTES = 1 << 20
LARGE_BYTES = 1 << 30


def containerize(found: Found, size_bytes: int) -> str:
    """Whether and why."""
    if not found.safe:
        return "No: the file would run code that nobody has vouched for; settle that first."
    if found.format == "onnx" and size_bytes < SMALL_BYTES:
        return (
            "Optional: the file holds data only and needs just onnxruntime, so it also runs embedded; "
            "a container adds probes, one digest and golden checks."
        )
    if found.format == "skops" and size_bytes < SMALL_BYTES:
        stamp = found.versions.get("scikit-learn")
        version = f" {stamp.version}" if stamp else ""
        return f"Yes: the file holds data only, but its answers depend on scikit-learn{version} and NumPy."
    if found.format == "predictor":
        return "Yes: code and its packages have to travel together."
    if size_bytes > LARGE_BYTES:
        return (
            f"Yes, with care: {size_bytes / LARGE_BYTES:.1f} GiB of model make every pull slow; its layer is stored "
            "and sent once as long as the file does not change."
        )
    stamp = found.versions.get("scikit-learn")
    if stamp is not None:
        return (
            f"Yes: it opens reliably only under scikit-learn {stamp.version}, and its environment decides its answers."
        )
    return "Yes: it needs its own versions of " + (", ".join(found.requires) or "its packages") + "."
