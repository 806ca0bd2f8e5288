"""Plain pickles: `pickle.dump(model, file)`."""

from __future__ import annotations

from intermodal.rooms.inspect.formats.interface import Found, Opened
from intermodal.rooms.inspect.formats.pickled import describe
from intermodal.rooms.inspect.pickles.source import compression_of

TEXT_STARTS = b"(cIFLSVNgp]}l"  # first opcodes of protocol 0 and 1


def looks_pickled(opened: Opened) -> bool:
    """Whether the first bytes are those of a pickle, plain or compressed as joblib does it."""
    head = opened.head
    if head[:1] == b"\x80":
        return len(head) < 2 or head[1] <= 5
    if compression_of(head):
        return True
    return head[:1] in [bytes([b]) for b in TEXT_STARTS] and head[:1] != b"" and _starts_like_text(head)


def _starts_like_text(head: bytes) -> bool:
    # "ccopyreg\n_reconstructor\n", "(dp0\n", "(lp0\n" …: an opcode that a document in words would not begin with
    if head[:1] == b"c":
        words = head[1:200].split(b"\n")
        return len(words) >= 3 and all(w.replace(b".", b"_").replace(b"_", b"a").isalnum() for w in words[:2])
    return head[:1] in (b"(", b"]", b"}") and head[1:2] in [bytes([b]) for b in b"dlticSVIKUXqp()]}("]


class PickleFormat:
    """A stream of pickle opcodes and nothing else."""

    name = "pickle"

    def claims(self, opened: Opened) -> bool:
        """By the first opcode."""
        return opened.path is not None and looks_pickled(opened)

    def read(self, opened: Opened) -> Found:
        """The estimator the pickle describes."""
        reading = opened.reading
        return describe(opened, self.name, "pickle", reading.root, reading.names, reading.findings)
