"""The room `render`: files for those who watch, or run, what we made with tools of their own.

Takes what is known of a deployed model or an image (`About`), hands on files by name. No I/O, and equal values give
equal bytes. What a file says of metrics is said in one place, `queries`.
"""

from __future__ import annotations

from intermodal.rooms.render.about import About, Place, Rendered

__all__ = ["BUILT", "LATER", "About", "Place", "Rendered"]

BUILT = ("prometheus", "alerts", "grafana", "compose")
LATER = ("kubernetes", "helm", "kserve", "argo")
