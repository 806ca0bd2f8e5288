"""Making new inputs out of old ones, by the structure of each format, so that damage goes deeper than the first check.

Takes bytes and a source of chance; hands on bytes. A tar gets its checksums back, a wheel its RECORD, a package its
sizes, most of the time: what is never repaired only tests the first line of a reader. Nothing here is clever about
what it finds, and anything that is not of its format is mutated byte by byte.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import lzma
import pickletools
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from random import Random

from . import mutate_requests

BLOCK = 512
MAX_BYTES = 1 << 16
INFO = "demo-1.0.dist-info"
NUMBERS = (0, 1, 2, 7, 8, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0xFFFF, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1,
           1 << 40, (1 << 63) - 1, (1 << 64) - 1)  # fmt: skip
NAMES = (b"../x", b"/etc/x", b"a/../../x", b"a/b", b"a", b".", b"..", b"", b"./a//b", b".wh.a", b".wh..wh..opq", b"l",
         b"l/x", b"\xff\xfe", b"a\\b", b"C:/x", b"n" * 99, b"a\0b", b"lib/x", b"usr/lib/x", b"x" * 300)  # fmt: skip
MEMBERS = (
    "demo/a.py", "../a.py", "demo-1.0.data/scripts/run", "demo-1.0.data/data/x", "demo-1.0.data/etc/x", "demo.pth",
    "demo-1.0.data/purelib/a.py", f"{INFO}/entry_points.txt", "schema.json", "0.npy", f"{INFO}/RECORD.jws", "demo",
    "demo/tests/a.py", "demo/__pycache__/a.cpython-311.pyc", "a/.wh.b", "e\u0301", "demo/é.py", f"{INFO}/WHEEL",
    "demo-1.0.data/scripts/python", "other-1.0.dist-info/METADATA", "demo-1.0.data/headers/x.h",
)  # fmt: skip
TEXTS = (
    b"#!python\nimport demo\n", b"#!pythonw", b"[console_scripts]\nx = demo:main\n", b"[gui_scripts]\n../x = a:b\n",
    b"../../../x\n", b"import os\n/abs\n", b'{"__class__": "X", "__module__": "m", "__loader__": "ObjectNode"}',
    b"", b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }\n", b"\xff" * 9, b"\n" * 50,
)  # fmt: skip
OPCODES = tuple(op.code.encode("latin-1") for op in pickletools.opcodes)
PARTS = (
    b"cposix\nmkdir\n", b"\x8c\x05posix\x8c\x05mkdir\x93", b"csklearn.linear_model._base\nLinearRegression\n", b")\x81",
    b"]\x94h\x00a", b"Pid\n", b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"\x8c\x02f8\x89\x88\x87R",
    b"K\x00\x85C\x01b\x87R", b"}b",
    b"cjoblib.numpy_pickle\nNumpyArrayWrapper\n", b"ccollections\nOrderedDict\n", b"cbuiltins\ngetattr\n", b"N}\x86b",
    b"\x95\x08\0\0\0\0\0\0\0", b"h\x00", b"q\x00", b"(", b"t", b"u", b"e", b"0", b"2", b".", b"\x80\x04", b"I01\n",
    b"L99999999999999999999L\n", b"F1e999\n", b"S'\\x00\\'\n", b"V\\ud800\n", b"\x8b\xff\xff\xff\x7f", b"\x8f",
)  # fmt: skip


def mutate(reader: str, data: bytes, chance: Random) -> bytes:
    """A new input for `reader`, one to four changes away from `data`."""
    change = _OF[reader]
    for _ in range(chance.choice((1, 1, 1, 2, 2, 4))):
        try:
            data = any_bytes(data, chance) if chance.random() < 0.2 else change(data, chance)
        except (ValueError, IndexError, KeyError, struct.error, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
                OSError, EOFError, RuntimeError, NotImplementedError):  # fmt: skip
            data = any_bytes(data, chance)
    return data[:MAX_BYTES]


def any_bytes(data: bytes, chance: Random) -> bytes:
    """Bits flipped, numbers put in, pieces cut, doubled or moved; of any format."""
    out = bytearray(data or b"\0")
    at = chance.randrange(len(out))
    size = min(chance.choice((1, 2, 4, 8, 32, 512)), len(out) - at)
    what = chance.randrange(7)
    if what == 0:
        out[at] ^= 1 << chance.randrange(8)
    elif what == 1:
        out[at] = chance.randrange(256)
    elif what == 2:
        form = chance.choice(("<H", "<I", "<Q", ">I"))
        limit = (1 << 8 * struct.calcsize(form)) - 1
        out[at : at + struct.calcsize(form)] = struct.pack(form, min(chance.choice(NUMBERS), limit))
    elif what == 3:
        del out[at : at + size]
    elif what == 4:
        out[at:at] = out[at : at + size]
    elif what == 5:
        out[at:at] = chance.choice((*NAMES, *TEXTS, *PARTS))
    else:
        del out[at:]
    return bytes(out)


# --- tar

_FIELDS = ((0, 100), (100, 8), (124, 12), (156, 1), (157, 100), (257, 8), (329, 8), (345, 155))


def tar(data: bytes, chance: Random) -> bytes:
    """Blocks moved, or a field of a header replaced; checksums made right again."""
    if data.startswith(b"\x1f\x8b"):
        return gzip.compress(tar(gzip.decompress(data), chance), 1, mtime=0)
    blocks = [bytearray(data[at : at + BLOCK].ljust(BLOCK, b"\0")) for at in range(0, len(data), BLOCK)]
    heads = [number for number, block in enumerate(blocks) if block[257:262] == b"ustar"]
    at = chance.choice(heads or [0])
    what = chance.randrange(8)
    if what == 0:
        blocks.insert(chance.randrange(len(blocks)), bytearray(blocks[at]))
    elif what == 1:
        del blocks[at]
    elif what == 2:
        blocks[at:at] = _extension(chance)
    elif what == 3:
        other = chance.choice(heads)
        blocks[at], blocks[other] = blocks[other], blocks[at]
    else:
        _put_field(blocks[at], chance)
    if chance.random() < 0.9:
        for block in blocks:
            if block[257:262] == b"ustar":
                block[148:156] = b" " * 8
                block[148:156] = b"%06o\0 " % sum(block)
    return b"".join(blocks)


def _put_field(block: bytearray, chance: Random) -> None:
    start, size = chance.choice(_FIELDS)
    if size in (8, 12):
        number = chance.choice(NUMBERS)
        value = b"%0*o\0" % (size - 1, number % 8 ** (size - 1))
        if chance.random() < 0.3:
            value = bytes([chance.choice((0x80, 0xFF))]) + number.to_bytes(11, "big")[-size + 1 :]
    elif size == 1:
        value = chance.choice(
            (b"0", b"\0", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"x", b"g", b"L", b"K", b"S", b"V")
        )
    else:
        value = chance.choice(NAMES)
    block[start : start + size] = value[:size].ljust(size, b"\0")


def _extension(chance: Random) -> list[bytearray]:
    """A pax header or a GNU long name, honest or not, to stand before another entry."""
    flag = chance.choice(b"xgLK")
    body = chance.choice(NAMES) + b"\0"
    if flag in b"xg":
        key = chance.choice((b"path", b"linkpath", b"size", b"GNU.sparse.major", b"mtime"))
        value = chance.choice((*NAMES, b"0", b"9" * 17, b"-1", b"512"))
        record = b" " + key + b"=" + value + b"\n"
        body = b"%d" % (len(record) + chance.choice((2, 2, 2, 1, 3, 40))) + record
    head = bytearray(BLOCK)
    head[124:136] = b"%011o\0" % chance.choice((len(body), len(body), len(body), 0, 1 << 30))
    head[156], head[257:265] = flag, b"ustar\x0000"
    return [head, bytearray(body.ljust(-(-len(body) // BLOCK) * BLOCK, b"\0"))]


# --- ar

_PACK: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
    ".xz": (lzma.decompress, lambda data: lzma.compress(data, preset=0)),
    ".gz": (gzip.decompress, lambda data: gzip.compress(data, 1, mtime=0)),
    ".tar": (bytes, bytes),
}


def ar(data: bytes, chance: Random) -> bytes:
    """A member moved, renamed or mutated as the tar it is; sizes mostly right again."""
    members, at = [], 8
    while at + 60 <= len(data):
        size = int(data[at + 48 : at + 58])
        members.append([bytearray(data[at : at + 60]), data[at + 60 : at + 60 + size]])
        at += 60 + size + (size & 1)
    number = chance.randrange(len(members))
    what = chance.randrange(10)
    if what == 0:
        members.insert(number, [bytearray(members[number][0]), members[number][1]])
    elif what == 1:
        del members[number]
    elif what == 2:
        name = (b"data.tar", b"data.tar.xz", b"data.tar.gz", b"data.tar.zst", b"control.tar", b"debian-binary", b"//")
        members[number][0][:16] = chance.choice(name).ljust(16)
    elif what == 3:
        members[number][1] = any_bytes(bytes(members[number][1]), chance)
    else:
        _mutate_member(members[chance.choice((1, 2, 2, 2))], chance)
    out = bytearray(b"!<arch>\n")
    for header, body in members:
        if chance.random() < 0.97:
            header[48:58] = str(len(body)).encode().ljust(10)
        out += header + body + b"\n" * (len(body) & 1)
    return bytes(out)


def _mutate_member(member: list[bytearray | bytes], chance: Random) -> None:
    name = bytes(member[0][:16]).strip().decode("ascii")
    unpack, pack = _PACK["." + name.rpartition(".")[2]]
    member[1] = pack(tar(unpack(bytes(member[1])), chance))


# --- zip


def zip_(data: bytes, chance: Random) -> bytes:
    """A member renamed, doubled, dropped or rewritten and RECORD written anew; or a number in a header replaced."""
    if chance.random() < 0.3:
        return _zip_header(data, chance)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist() if info.file_size < MAX_BYTES]
    at = chance.randrange(len(members))
    info, body = members[at]
    what = chance.randrange(5)
    if what == 0:
        del members[at]
    elif what == 1:
        members[at] = (_named(info, chance.choice(MEMBERS)), body)
    elif what == 2:
        members.append((_named(info, chance.choice(MEMBERS)), chance.choice(TEXTS)))
    elif what == 3:
        info.external_attr = chance.choice((0, 0o100755, 0o120777, 0o040755, 0o010644)) << 16
        info.compress_type = chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA))
    else:
        members[at] = (info, any_bytes(body, chance))
    return _zipped(members, with_record=chance.random() < 0.9)


def _named(info: zipfile.ZipInfo, name: str) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name)
    made.compress_type, made.external_attr = info.compress_type, info.external_attr
    return made


def _zipped(members: list[tuple[zipfile.ZipInfo, bytes]], *, with_record: bool) -> bytes:
    record = ""
    for info, body in members:
        name = info.filename
        if not name.endswith(("/RECORD", "/RECORD.jws")):
            digest = base64.urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b"=").decode()
            record += f'"{name}",sha256={digest},{len(body)}\n'
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one name twice is what we want
        with zipfile.ZipFile(out, "w") as archive:
            for info, body in members:
                own = info.filename == f"{INFO}/RECORD" and with_record
                archive.writestr(_named(info, info.filename), record.encode() if own else body, info.compress_type)
    return out.getvalue()


def _zip_header(data: bytes, chance: Random) -> bytes:
    """One number of a local header, a row of the directory, or its end."""
    out = bytearray(data)
    magic, size = chance.choice(((b"PK\3\4", 30), (b"PK\1\2", 46), (b"PK\1\2", 46), (b"PK\5\6", 22), (b"PK\6\6", 56)))
    places = [at for at in range(len(out) - size) if out[at : at + 4] == magic] or [max(0, len(out) - 22)]
    at = chance.choice(places) + chance.randrange(4, size - 1, 2)
    form = chance.choice(("<H", "<I"))
    value = chance.choice((*NUMBERS, len(data), len(data) - 22)) & ((1 << 8 * struct.calcsize(form)) - 1)
    out[at : at + struct.calcsize(form)] = struct.pack(form, value)
    return bytes(out)


# --- pickle


def pickle(data: bytes, chance: Random) -> bytes:
    """Opcodes doubled, dropped, moved or put in; inside a compressed stream as well."""
    if data.startswith(b"\x78"):
        return zlib.compress(pickle(zlib.decompress(data), chance), 1)
    if data.startswith(b"\x1f\x8b"):
        return gzip.compress(pickle(gzip.decompress(data), chance), 1, mtime=0)
    cuts = []
    try:
        cuts = [at for _, _, at in pickletools.genops(data) if at is not None]
    except Exception:  # as far as it could be read
        cuts = cuts or sorted(chance.randrange(len(data) + 1) for _ in range(8))
    pieces = [data[a:b] for a, b in zip(cuts, [*cuts[1:], len(data)], strict=True)]
    at, other = chance.randrange(len(pieces)), chance.randrange(len(pieces))
    what = chance.randrange(7)
    if what == 0:
        pieces.insert(other, pieces[at])
    elif what == 1:
        del pieces[at]
    elif what == 2:
        pieces[at], pieces[other] = pieces[other], pieces[at]
    elif what == 3:
        pieces.insert(at, chance.choice(OPCODES))
    elif what == 4:
        pieces.insert(at, chance.choice(PARTS))
    elif what == 5:
        pieces[at] = chance.choice(OPCODES) + pieces[at][1:]
    else:
        pieces[at:at] = pieces[min(at, other) : max(at, other)] * chance.choice((1, 1, 2, 40))
    return b"".join(pieces)


_OF: dict[str, Callable[[bytes, Random], bytes]] = {
    "zip": zip_, "tar": tar, "ar": ar, "pickle": pickle,
    "connection": mutate_requests.connection, "body": mutate_requests.body,
}  # fmt: skip
