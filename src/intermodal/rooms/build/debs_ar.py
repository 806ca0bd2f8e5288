"""The members of an `ar` archive, read without trusting a single number in it.

Takes a seekable stream and its size; hands on `ArMember` values whose ranges lie inside the stream.

Rules, in order: the magic must be there; a header is 60 bytes and ends in a back quote and a newline; a size
is decimal digits and the member must fit into what is left; names are short ASCII words (a .deb knows no
long-name tables); at most `MAX_MEMBERS`; nothing but one padding byte may follow a member of odd size.

Spec: deb(5); ar(5), "common" format.
"""

from __future__ import annotations

import re
from typing import BinaryIO

from msgspec import Struct

from intermodal.errors import PackageFileError

MAGIC = b"!<arch>\n"
HEADER_BYTES = 60
MAX_MEMBERS = 16
_NAME = re.compile(rb"[A-Za-z0-9._+-]{1,16}")
_SIZE = re.compile(rb"[0-9]{1,10}")


class ArMember(Struct, frozen=True):
    """One member: where its bytes lie in the stream."""

    name: str
    offset: int
    size_bytes: int


def read_ar(stream: BinaryIO, total_bytes: int, title: str) -> tuple[ArMember, ...]:
    """The members of the archive in `stream`, in order.

    Args:
        stream: seekable; read from its start, left anywhere; the caller closes it.
        total_bytes: its true size; no member may reach beyond.
        title: file name for messages.

    Raises:
        PackageFileError: not an archive, cut short, or a header that promises what is not there.
    """
    stream.seek(0)
    if stream.read(len(MAGIC)) != MAGIC:
        raise PackageFileError(f"{title} is not a Debian package", found="it does not begin with the magic of ar")
    members: list[ArMember] = []
    offset = len(MAGIC)
    while offset < total_bytes:
        if len(members) == MAX_MEMBERS:
            raise PackageFileError(f"{title} is not a Debian package", found=f"more than {MAX_MEMBERS} members")
        stream.seek(offset)
        member = _parse_header(stream.read(HEADER_BYTES), offset + HEADER_BYTES, title)
        end = member.offset + member.size_bytes
        if end > total_bytes:
            raise PackageFileError(
                f"{title} is cut short",
                found=f"member {member.name} should end at byte {end}, the file has {total_bytes}",
            )
        members.append(member)
        offset = end + (end & 1)
    return tuple(members)


def _parse_header(header: bytes, data_offset: int, title: str) -> ArMember:
    name = header[:16].rstrip(b" ").removesuffix(b"/")
    size = header[48:58].rstrip(b" ")
    if len(header) != HEADER_BYTES or header[58:] != b"`\n" or not _NAME.fullmatch(name) or not _SIZE.fullmatch(size):
        raise PackageFileError(
            f"{title} is damaged",
            found=f"no valid ar header at byte {data_offset - HEADER_BYTES}: {header[:16]!r}",
        )
    return ArMember(name.decode("ascii"), data_offset, int(size))
