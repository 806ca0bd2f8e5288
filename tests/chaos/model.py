"""The model of the campaign: y = 2x + 1, unless a value of the request says how to misbehave.

Copied into the image's `/app`; it knows nothing of the server. A value of `FIRST` + n means: do what the n-th entry of
`KINDS` says, whatever else is in the request or in the batch it came with.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time

FIRST = 1_000_000.0
CALL_S = 0.002  # of every call, so that going together pays
LEAK_BYTES = 24 << 20
PRINT_BYTES = 64 << 20
kept: list[bytearray] = []


class Odd(BaseException):
    pass


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__(threading.Lock(), lambda: None)


class Liar:
    def __array__(self, *_: object, **__: object) -> object:
        raise SystemError("no array")


def deep(depth: int) -> int:
    return deep(depth + 1) + 1


def fork_child() -> None:
    if os.fork() == 0:
        time.sleep(3600)


def fork_daemon() -> None:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(3600)
        os._exit(0)
    os.wait()


def fork_stranger() -> None:
    code = "import os,time\nif os.fork(): os._exit(0)\ntime.sleep(3600)"
    subprocess.Popen([sys.executable, "-c", code], env={}, start_new_session=True).wait()


def spin() -> None:
    while True:
        pass


def raises(error: BaseException) -> None:
    raise error


def say(size: int, descriptor: int) -> None:
    line = b"all work and no play makes a dull log " * 200 + b"\n"
    for _ in range(size // len(line)):
        os.write(descriptor, line)


def leak() -> None:
    kept.append(bytearray(LEAK_BYTES))


# name -> what is done before the answer, or a function of the right answer that gives the wrong one
BEFORE = {
    "exit": lambda: os._exit(3),
    "segv": lambda: ctypes.string_at(0),
    "abort": lambda: os.kill(os.getpid(), signal.SIGABRT),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "shut": lambda: os.closerange(3, 4096),
    "hang": lambda: time.sleep(3600),
    "spin": spin,
    "grip": lambda: re.match(r"(a+)+$", "a" * 64 + "b"),  # native code that never lets go of the interpreter
    "leak": leak,
    "fork": fork_child,
    "daemon": fork_daemon,
    "stranger": fork_stranger,
    "thread": lambda: threading.Thread(target=time.sleep, args=(3600,)).start(),
    "print": lambda: say(PRINT_BYTES, 1),
    "mutter": lambda: say(PRINT_BYTES, 2),
    "value": lambda: raises(ValueError("secret")),
    "sysexit": lambda: sys.exit(0),
    "interrupt": lambda: raises(KeyboardInterrupt()),
    "generatorexit": lambda: raises(GeneratorExit()),
    "stop": lambda: raises(StopIteration(1)),
    "odd": lambda: raises(Odd()),
    "unspeakable": lambda: raises(Unspeakable()),
    "unpicklable": lambda: raises(Unpicklable()),
    "memory": lambda: raises(MemoryError()),
    "recursion": lambda: deep(0),
}
INSTEAD = {
    "nan": lambda right: [float("nan") if value == bad("nan") else value for value in right],
    "infinity": lambda right: [float("inf") if value == bad("infinity") else value for value in right],
    "ints": lambda right: [int(value) for value in right],
    "text": lambda right: [str(value) for value in right],
    "more": lambda right: [*right, 1.0],
    "fewer": lambda right: right[1:],
    "nested": lambda right: [[value, value] for value in right],
    "ragged": lambda right: [right, [1.0] * 9],
    "mixed": lambda right: [*right[:-1], object()],
    "none": lambda right: None,
    "generator": lambda right: (value for value in right),
    "liar": lambda right: Liar(),
    "set": lambda right: set(right),
    "empty": lambda right: [],
    "names": lambda right: {"z": right, 7: right},
    "nothing": lambda right: {},
}
KINDS = [*BEFORE, *INSTEAD]


def bad(kind: str) -> float:
    """What the model would answer to the value that asks for this kind."""
    return (FIRST + KINDS.index(kind)) * 2 + 1


class Model:
    def predict(self, x: list[float]) -> object:
        time.sleep(CALL_S)
        right = [float(value) * 2 + 1 for value in x]
        answer: object = right
        for value in x:
            if value >= FIRST:
                kind = KINDS[int(value - FIRST)]
                if kind in BEFORE:
                    BEFORE[kind]()
                else:
                    answer = INSTEAD[kind](right)
        return answer if isinstance(answer, dict) else {"y": answer}
