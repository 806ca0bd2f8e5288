"""A small ONNX model, written field by field: y = x @ W for FP32 rows of four, W such that each answer is exact."""

from __future__ import annotations

import struct

WEIGHTS = tuple(float(n) / 4 for n in range(12))  # 4 rows, 3 columns; sums of quarters are exact in FP32


def varint(value: int) -> bytes:
    """A base-128 number as protobuf writes it."""
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, value: int | str | bytes) -> bytes:
    """One field of a message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def matrix() -> bytes:
    """The model's bytes."""

    def info(name: str, columns: int) -> bytes:
        shape = field(1, field(2, "batch")) + field(1, field(1, columns))
        return field(1, name) + field(2, field(1, field(1, 1) + field(2, shape)))

    node = field(1, "x") + field(1, "W") + field(2, "y") + field(4, "MatMul")
    weights = field(1, 4) + field(1, 3) + field(2, 1) + field(8, "W") + field(9, struct.pack("<12f", *WEIGHTS))
    graph = field(1, node) + field(2, "g") + field(5, weights) + field(11, info("x", 4)) + field(12, info("y", 3))
    return field(1, 8) + field(2, "by hand") + field(7, graph) + field(8, field(2, 17))


def answer(row: tuple[float, ...]) -> list[float]:
    """What the model answers to one row."""
    return [sum(value * WEIGHTS[3 * n + column] for n, value in enumerate(row)) for column in range(3)]
