"""Texts of any length as labels of an image.

Takes a name and a text, hands on labels; takes labels, hands on the text.

Rule: a label longer than 4096 bytes with its name keeps `ctr run` from making a container of the image (and containerd
before 1.5.8 in Kubernetes, too), so a longer text goes into NAME.1, NAME.2, …, and nothing under NAME itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

MAX_BYTES = 4000  # of a value; the name needs room as well


def spread(name: str, text: str) -> dict[str, str]:
    """`text` as one label, or as numbered ones."""
    if len(text.encode()) <= MAX_BYTES:
        return {name: text}
    return {f"{name}.{number}": piece for number, piece in enumerate(_pieces(text), 1)}


def _pieces(text: str) -> Iterator[str]:
    data = text.encode()
    begin = 0
    while begin < len(data):
        end = min(begin + MAX_BYTES, len(data))
        while end < len(data) and data[end] & 0xC0 == 0x80:  # never inside a character
            end -= 1
        yield data[begin:end].decode()
        begin = end


def gathered(labels: Mapping[str, str], name: str) -> str:
    """The text that `spread` wrote; "" when there is none."""
    if name in labels:
        return labels[name]
    pieces: list[str] = []
    while f"{name}.{len(pieces) + 1}" in labels:
        pieces.append(labels[f"{name}.{len(pieces) + 1}"])
    return "".join(pieces)


def belongs(label: str, name: str) -> bool:
    """Whether `label` holds the text of `name` or a piece of it."""
    return label == name or (label.startswith(f"{name}.") and label[len(name) + 1 :].isdigit())
