"""Look over a large message before protobuf makes objects of it: two bytes can ask for a hundred.

Takes the bytes of a `ModelInferRequest`, refuses what has more fields than any request needs. Only inputs and outputs
are entered; the values in an input's contents are as many as its shape will have to say.

Rules, in order: a message of `SMALL_BYTES` is let through, because it cannot ask for much; more fields than
`MAX_FIELDS` are refused, and more axes in one shape than anybody has; what cannot be walked is no message.

Spec: Protocol Buffers, "Encoding".
"""

from __future__ import annotations

from intermodal_server.front.limits import MAX_RANK, Refusal

SMALL_BYTES = 64 << 10
MAX_FIELDS = 16 << 10
MAX_VARINT_BYTES = 10
INPUT, OUTPUT, SHAPE_OF_INPUT = 5, 6, 3
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5


def check_fields(data: bytes) -> None:
    """Return when `data` is small or has few fields.

    Raises:
        Refusal: 400.
    """
    if len(data) <= SMALL_BYTES:
        return
    try:
        left = MAX_FIELDS
        for number, start, end in _Fields(data, 0, len(data)):
            left -= 1
            if number in (INPUT, OUTPUT) and start < end:
                for inner, begin, finish in _Fields(data, start, end):
                    left -= 1
                    if number == INPUT and inner == SHAPE_OF_INPUT and finish - begin > MAX_RANK * MAX_VARINT_BYTES:
                        raise Refusal(400, f"an input has more than {MAX_RANK} axes")
                    if left < 0:
                        break
            if left < 0:
                raise Refusal(400, f"the message has more than {MAX_FIELDS} fields")
    except (IndexError, ValueError):
        raise Refusal(400, "the message is not of its kind") from None


def check_small(data: bytes) -> None:
    """Return when `data` is as small as every request but that for inference.

    Raises:
        Refusal: 413.
    """
    if len(data) > SMALL_BYTES:
        raise Refusal(413, f"a message of this method is not larger than {SMALL_BYTES} bytes")


class _Fields:
    """The fields of one message: number, and where its content begins and ends; empty for what is no content."""

    def __init__(self, data: bytes, start: int, end: int) -> None:
        self._data = data
        self._position = start
        self._end = end

    def __iter__(self) -> _Fields:
        return self

    def __next__(self) -> tuple[int, int, int]:
        if self._position >= self._end:
            raise StopIteration
        tag = self._varint()
        kind = tag & 7
        if kind == LENGTH:
            length = self._varint()
        elif kind == VARINT:
            self._varint()
            length = 0
        elif kind in (FIXED64, FIXED32):
            length = 8 if kind == FIXED64 else 4
        else:
            raise ValueError("a group")
        start, self._position = self._position, self._position + length
        if self._position > self._end:
            raise ValueError("a field beyond its message")
        return tag >> 3, start, self._position

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._data[self._position]
            self._position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift >= 7 * MAX_VARINT_BYTES:
                raise ValueError("a number without end")
