"""joblib files: a pickle with raw array bytes between its opcodes, or any pickle in a compressed stream."""

from __future__ import annotations

from intermodal.rooms.inspect.formats.interface import Found, Opened
from intermodal.rooms.inspect.formats.pickle import looks_pickled
from intermodal.rooms.inspect.formats.pickled import describe


class JoblibFormat:
    """What `joblib.dump` writes."""

    name = "joblib"

    def claims(self, opened: Opened) -> bool:
        """By compression, by raw arrays, and for a model without arrays by its file name."""
        if opened.path is None or not looks_pickled(opened):
            return False
        reading = opened.reading
        return bool(reading.compression or reading.wrapped_arrays or opened.path.suffix == ".joblib")

    def read(self, opened: Opened) -> Found:
        """The estimator the file describes."""
        reading = opened.reading
        return describe(opened, self.name, "joblib", reading.root, reading.names, reading.findings)
