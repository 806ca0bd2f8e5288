"""Hostile pickles made by hand, opcode by opcode; none is ever loaded by the tests except in a throw-away process.

`HOSTILE` maps a name to bytes and to the loader that would be fooled ("pickle", "joblib"), or "" where the file would
only fail to load. `CANARY` is the folder that a loaded payload would make.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import zlib

CANARY = "canary"


def text(value: str) -> bytes:
    """SHORT_BINUNICODE."""
    data = value.encode()
    return b"\x8c" + bytes([len(data)]) + data


def name(module: str, attribute: str) -> bytes:
    """GLOBAL."""
    return f"c{module}\n{attribute}\n".encode()


def stacked(module: str, attribute: str) -> bytes:
    """STACK_GLOBAL."""
    return text(module) + text(attribute) + b"\x93"


def number(value: int) -> bytes:
    """BININT."""
    return b"J" + struct.pack("<i", value)


def call(callee: bytes, *args: bytes) -> bytes:
    """REDUCE."""
    return callee + b"(" + b"".join(args) + b"tR"


def made(callee: bytes, *args: bytes) -> bytes:
    """NEWOBJ."""
    return callee + b"(" + b"".join(args) + b"t\x81"


def mapping(**entries: bytes) -> bytes:
    """A dictionary with string keys."""
    return b"}(" + b"".join(text(key) + value for key, value in entries.items()) + b"u"


def stream(body: bytes, protocol: int = 4) -> bytes:
    """PROTO, the body, STOP."""
    return b"\x80" + bytes([protocol]) + body + b"."


EVIL = call(stacked("posix", "mkdir"), text(CANARY))
DROPPED = EVIL + b"0"  # called, and the result thrown away
SCALER = stacked("sklearn.preprocessing._data", "StandardScaler")
KFOLD = stacked("sklearn.model_selection._split", "KFold")
BENIGN = made(SCALER) + mapping(_sklearn_version=text("1.3.2")) + b"b"
DTYPE = call(name("numpy", "dtype"), text("f8"), b"\x89", b"\x88")
ARRAY_TYPE = stacked("numpy", "ndarray")
WRAPPER = stacked("joblib.numpy_pickle", "NumpyArrayWrapper")


def dtype_state(flags: int = 0, size: int = -1, order: str = "<") -> bytes:
    """BUILD of a numpy.dtype."""
    return b"(" + number(3) + text(order) + b"NNN" + number(size) + number(-1) + number(flags) + b"tb"


def wrapper_state(dtype: bytes = DTYPE + dtype_state(), count: int = 0, **changes: bytes) -> bytes:
    """BUILD of a joblib wrapper."""
    fields = {
        "subclass": ARRAY_TYPE,
        "shape": number(count) + b"\x85",
        "order": text("C"),
        "dtype": dtype,
        "allow_mmap": b"\x89",
    }
    return mapping(**{k: v for k, v in (fields | changes).items() if v}) + b"b"


def framed(body: bytes) -> bytes:
    """FRAME around a body."""
    return b"\x95" + struct.pack("<Q", len(body)) + body


def hidden(evil: bytes) -> bytes:
    """Opcodes that a linear reader takes for the content of a bytes object."""
    return b"B" + struct.pack("<I", len(evil)) + evil


OBJECTS = call(name("numpy", "dtype"), text("O8"), b"\x89", b"\x88") + dtype_state(63, order="|")
MARKED_OBJECTS = DTYPE + dtype_state(flags=1)
IN_CLASS = call(name("numpy.core.multiarray", "_reconstruct"), ARRAY_TYPE, number(0) + b"\x85", b"C\x01b")
EXP = stacked("numpy", "exp")

HOSTILE: dict[str, tuple[bytes, str]] = {
    "global-reduce": (b"cposix\nmkdir\n(S'canary'\ntR.", "pickle"),
    "stack-global": (stream(EVIL), "pickle"),
    "os-alias": (stream(call(name("os", "mkdir"), text(CANARY))), "pickle"),
    "eval": (stream(call(name("builtins", "eval"), text("__import__('os').mkdir('canary')"))), "pickle"),
    "exec": (stream(call(name("builtins", "exec"), text("import os; os.mkdir('canary')"))), "pickle"),
    "getattr": (
        stream(
            call(
                call(name("builtins", "getattr"), call(name("builtins", "__import__"), text("os")), text("mkdir")),
                text(CANARY),
            )
        ),
        "pickle",
    ),
    "inst": (b"(S'canary'\niposix\nmkdir\n.", "pickle"),
    "obj": (b"(" + name("posix", "mkdir") + b"S'canary'\no.", "pickle"),
    "newobj": (stream(made(stacked("subprocess", "Popen"), text("id"))), ""),
    "newobj-ex": (stream(stacked("subprocess", "Popen") + b")" + mapping(args=text("id")) + b"\x92"), ""),
    "names-from-memo": (
        stream(text("posix") + b"\x94" + text("mkdir") + b"\x9400h\x00h\x01\x93(" + text(CANARY) + b"tR"),
        "pickle",
    ),
    "names-from-text-memo": (
        b"Vmkdir\np7\n0Vposix\np300\n0" + b"\x80\x04g300\ng7\n\x93(Vcanary\ntR.",
        "pickle",
    ),
    "computed-name": (
        stream(call(name("builtins", "str"), text("posix")) + text("mkdir") + b"\x93(" + text(CANARY) + b"tR"),
        "pickle",
    ),
    "python2-builtin": (
        stream(call(name("__builtin__", "eval"), text("__import__('os').mkdir('canary')")), 2),
        "pickle",
    ),
    "python2-commands": (stream(call(name("commands", "getoutput"), text("mkdir canary")), 2), "pickle"),
    "reconstructor-base": (
        stream(call(name("copyreg", "_reconstructor"), SCALER, name("builtins", "int"), number(1))),
        "",
    ),
    "dotted-name": (
        stream(call(stacked("collections", "OrderedDict.__init__.__class__"), text("id"))),
        "",
    ),
    "partial": (
        stream(call(call(name("functools", "partial"), stacked("posix", "mkdir"), text(CANARY)))),
        "pickle",
    ),
    "methodcaller": (stream(call(name("operator", "methodcaller"), text("system"), text("id"))), ""),
    "import-module": (stream(call(name("importlib", "import_module"), text("antigravity"))), ""),
    "runpy": (stream(call(name("runpy", "run_path"), text("/etc/passwd"))), ""),
    "nested-loads": (stream(call(name("_pickle", "loads"), hidden(stream(EVIL)))), "pickle"),
    "marshal": (stream(call(name("marshal", "loads"), b"C\x01N")), ""),
    "code-type": (stream(call(name("types", "FunctionType"), b"N", b"}")), ""),
    "ufunc-reconstruct": (
        stream(call(call(name("numpy.core", "_ufunc_reconstruct"), text("posix"), text("mkdir")), text(CANARY))),
        "pickle",
    ),
    "numpy-runstring": (stream(call(name("numpy.testing._private.utils", "runstring"), text("1"), b"}")), ""),
    "joblib-load": (stream(call(name("joblib.numpy_pickle", "load"), text("/etc/passwd"))), ""),
    "sklearn-door": (stream(call(name("sklearn.utils._joblib", "load"), text("x"))), ""),
    "codec": (stream(call(name("_codecs", "encode"), text("a"), text("zlib"))), ""),
    "persistent-id": (b"Ppath\n.", ""),
    "binary-persistent-id": (stream(text("path") + b"Q"), ""),
    "extension-1": (stream(b"\x82\x01"), ""),
    "extension-2": (stream(b"\x83\x01\x00"), ""),
    "extension-4": (stream(b"\x84\x01\x00\x00\x00"), ""),
    "out-of-band-buffer": (stream(b"\x97", 5), ""),
    "second-stream": (stream(BENIGN) + stream(EVIL), ""),
    "trailing-bytes": (stream(BENIGN) + b"#!/bin/sh\n", ""),
    "state-on-class": (stream(SCALER + mapping(transform=EXP) + b"b"), ""),
    "slots-on-class": (stream(KFOLD + b"N" + mapping(split=EXP) + b"\x86b"), "pickle"),
    "planted-setstate": (stream(made(SCALER) + mapping(__setstate__=EXP) + b"b" + number(1) + b"b"), "pickle"),
    "state-twice": (stream(BENIGN + mapping(append=EXP) + b"b"), ""),
    "class-in-slots": (stream(made(SCALER) + b"N" + mapping(__class__=SCALER) + b"\x86b"), ""),
    "append-to-object": (stream(made(SCALER) + mapping(append=EXP) + b"b" + number(1) + b"a"), "pickle"),
    "extend-object": (stream(made(SCALER) + mapping(extend=EXP) + b"b(" + number(1) + b"e"), ""),
    "add-to-object": (stream(made(SCALER) + mapping(add=EXP) + b"b(" + number(1) + b"\x90"), ""),
    "setitem-on-object": (stream(BENIGN + text("a") + number(1) + b"s"), ""),
    "call-of-instance": (stream(call(BENIGN, text("id"))), ""),
    "call-of-value": (stream(call(EXP, number(1))), "pickle"),
    "constructor": (stream(call(KFOLD, number(3))), "pickle"),
    "huge-bytearray": (stream(call(name("builtins", "bytearray"), number(2_000_000_000))), ""),
    "arguments-no-tuple": (stream(SCALER + text("id") + b"R"), ""),
    "as-key": (stream(b"(" + EVIL + text("v") + b"d"), "pickle"),
    "in-set": (stream(b"\x8f(" + EVIL + b"\x90"), "pickle"),
    "in-frozenset": (stream(b"(" + EVIL + b"\x91"), "pickle"),
    "result-dropped": (stream(DROPPED + BENIGN), "pickle"),
    "behind-mark": (stream(b"(" + EVIL + b"1" + BENIGN), "pickle"),
    "then-truncated": (stream(EVIL + BENIGN)[:-20], "pickle"),
    "then-garbage": (stream(EVIL)[:-1] + b"\xff\xff", "pickle"),
    "zlib": (zlib.compress(stream(EVIL)), "joblib"),
    "gzip": (gzip.compress(stream(EVIL), mtime=0), "joblib"),
    "gzip-two-members": (gzip.compress(stream(EVIL)[:9], mtime=0) + gzip.compress(stream(EVIL)[9:], mtime=0), ""),
    "bz2": (bz2.compress(stream(EVIL)), "joblib"),
    "xz": (lzma.compress(stream(EVIL)), "joblib"),
    "lzma": (lzma.compress(stream(EVIL), lzma.FORMAT_ALONE), "joblib"),
    "object-array": (stream(made(WRAPPER) + wrapper_state(OBJECTS, 1) + stream(EVIL)), "joblib"),
    "object-array-plain": (
        stream(IN_CLASS + b"(" + number(1) + number(1) + b"\x85" + OBJECTS + b"\x89](" + EVIL + b"etb"),
        "pickle",
    ),
    "object-array-behind-zlib": (
        zlib.compress(stream(made(WRAPPER) + wrapper_state(OBJECTS, 1) + stream(EVIL))),
        "joblib",
    ),
    "frame-hides-opcodes": (
        b"\x80\x04" + framed(made(WRAPPER) + wrapper_state(count=1) + EVIL + b".") + b"\0" * 8,
        "joblib",
    ),
    "objects-that-are-numbers": (
        stream(made(WRAPPER) + wrapper_state(MARKED_OBJECTS, len(stream(EVIL)) // 8 + 1) + stream(EVIL) + b"\0" * 16),
        "",
    ),
    "wrapper-by-index": (
        stream(
            call(name("pandas.core.indexes.base", "_new_Index"), WRAPPER, b"}")
            + wrapper_state(count=1)
            + b"C\x08"
            + b"\0" * 6
            + EVIL[:2]
        ),
        "",
    ),
    "wrapper-by-generator": (
        stream(call(name("numpy.random._pickle", "__bit_generator_ctor"), WRAPPER)),
        "",
    ),
    "wrapper-without-dtype": (stream(made(WRAPPER) + wrapper_state(dtype=b"")), ""),
    "wrapper-with-computed-dtype": (stream(made(WRAPPER) + wrapper_state(call(EXP, number(1)))), ""),
    "wrapper-of-two-lengths": (
        stream(
            made(WRAPPER)
            + wrapper_state(call(name("numpy", "dtype"), text("V8"), b"\x89", b"\x88") + dtype_state(0, 16, "|"))
        ),
        "",
    ),
    "generator-of-anything": (
        stream(call(name("numpy.random._pickle", "__generator_ctor"), text("MT19937"), EXP)),
        "",
    ),
    "name-of-another-package": (
        stream(call(name("numpy.random._pickle", "__bit_generator_ctor"), SCALER)),
        "",
    ),
    "huge-number": (stream(b"\x8b\xff\xff\xff\x7f"), ""),
}

for module, attribute in (
    ("webbrowser", "open"), ("shutil", "rmtree"), ("socket", "create_connection"), ("ctypes", "CDLL"),
    ("pip", "main"), ("pty", "spawn"), ("pdb", "run"), ("timeit", "timeit"), ("code", "interact"),
    ("asyncio", "run"), ("urllib.request", "urlopen"), ("torch", "load"), ("pandas.io.pickle", "read_pickle"),
    ("cloudpickle.cloudpickle", "_make_function"), ("dill._dill", "_create_type"), ("nt", "system"),
    ("scipy.stats._distn_infrastructure", "rv_generic"), ("sklearn.datasets._openml", "fetch_openml"),
    ("numpy", "load"), ("numpy", "fromfile"), ("__main__", "Model"), ("mylib.transforms", "Log"),
):  # fmt: skip
    HOSTILE[f"{module}.{attribute}"] = (stream(call(name(module, attribute), text("x"))), "")
