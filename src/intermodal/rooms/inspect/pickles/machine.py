"""The symbolic unpickler: executes every pickle opcode on inert values.

Takes a `Source` and a `Judge`, hands on the value on top of the stack at STOP. Where CPython's unpickler would import,
call, set state or add members, the judge is told and an `Obj` stands for the result; nothing is imported or called.
Stack, marks, memo and frames behave as in CPython 3.8 to 3.14. One machine reads one stream; a joblib object array
starts another one for the stream inside it.
"""

from __future__ import annotations

from intermodal.rooms.inspect.pickles.arrays import read_wrapped_array
from intermodal.rooms.inspect.pickles.explain import escape
from intermodal.rooms.inspect.pickles.judge import Judge
from intermodal.rooms.inspect.pickles.literals import TABLE, Literals, opcode
from intermodal.rooms.inspect.pickles.source import Source
from intermodal.rooms.inspect.pickles.values import (
    Damaged,
    Dict,
    Global,
    Hostile,
    LimitExceeded,
    List,
    Obj,
    PickleFault,
    Value,
)

MAX_OPCODES = 40_000_000
MAX_MEMO = 8_000_000
MAX_STACK = 4_000_000
MAX_NESTING = 64  # streams inside streams


class _Stop(Exception):
    """The STOP opcode."""


class Machine(Literals):
    """One pickle stream being read; see the module.

    Args:
        source: where to read; left just behind STOP.
        judge: decides about names, calls, states and members.
        arrays: whether joblib's loader reads this stream, which takes raw array bytes out of it.
        nesting: how many streams this one lies within.
    """

    def __init__(self, source: Source, judge: Judge, *, arrays: bool, nesting: int = 0) -> None:
        super().__init__(source)
        if nesting > MAX_NESTING:
            raise LimitExceeded(f"streams within streams, {nesting} deep", source.position)
        self.judge = judge
        self.arrays = arrays
        self.nesting = nesting
        self.marks: list[list[Value]] = []
        self.memo: dict[int, Value] = {}
        self.frame_end = 0

    def run(self) -> Value:
        """The value at STOP.

        Raises:
            Truncated, Damaged, LimitExceeded: reading cannot go on; what was found so far stands in the judge.
        """
        read, table = self.read, TABLE
        try:
            for _ in range(MAX_OPCODES):
                code = read(1)
                handler = table.get(code)
                if handler is None:
                    raise Damaged(f"byte 0x{code.hex()} is no pickle opcode", self.source.position - 1)
                handler(self)
        except _Stop:
            return self.stack.pop()
        except PickleFault:
            raise
        except (IndexError, KeyError, ValueError, OverflowError, TypeError) as error:
            raise Damaged(
                f"an opcode does not fit what precedes it ({escape(str(error))})", self.source.position
            ) from error
        raise LimitExceeded(f"more than {MAX_OPCODES} opcodes", self.source.position)

    # --- stack, marks, memo, frames

    @opcode(b".")
    def _op_stop(self) -> None:
        self.stack[-1]
        raise _Stop

    @opcode(b"(")
    def _op_mark(self) -> None:
        if len(self.marks) >= MAX_STACK:
            raise LimitExceeded(f"more than {MAX_STACK} marks", self.source.position)
        self.marks.append(self.stack)
        self.stack = []
        self.push = self.stack.append

    def pop_mark(self) -> list[Value]:
        """Everything above the topmost mark, which goes too."""
        members = self.stack
        self.stack = self.marks.pop()
        self.push = self.stack.append
        return members

    @opcode(b"0")
    def _op_pop(self) -> None:
        if self.stack:
            del self.stack[-1]
        else:
            self.pop_mark()

    @opcode(b"1")
    def _op_pop_to_mark(self) -> None:
        self.pop_mark()

    @opcode(b"\x95")
    def _op_frame(self) -> None:
        size_bytes = int.from_bytes(self.read(8), "little")
        if self.source.position < self.frame_end:
            raise Damaged("a frame begins inside another frame", self.source.position)
        self.frame_end = self.source.position + size_bytes

    def _put(self, index: int) -> None:
        if index < 0 or len(self.memo) >= MAX_MEMO or len(self.stack) > MAX_STACK:
            raise LimitExceeded(f"more than {MAX_MEMO} remembered values", self.source.position)
        self.memo[index] = self.stack[-1]

    @opcode(b"\x94")
    def _op_memoize(self) -> None:
        self._put(len(self.memo))

    @opcode(b"q")
    def _op_put1(self) -> None:
        self._put(self.read(1)[0])

    @opcode(b"r")
    def _op_put4(self) -> None:
        self._put(int.from_bytes(self.read(4), "little"))

    @opcode(b"p")
    def _op_put_text(self) -> None:
        self._put(int(self.line()))

    @opcode(b"h")
    def _op_get1(self) -> None:
        self.push(self.memo[self.read(1)[0]])

    @opcode(b"j")
    def _op_get4(self) -> None:
        self.push(self.memo[int.from_bytes(self.read(4), "little")])

    @opcode(b"g")
    def _op_get_text(self) -> None:
        self.push(self.memo[int(self.line())])

    # --- containers

    @opcode(b"t")
    def _op_tuple(self) -> None:
        members = tuple(self.pop_mark())
        self.push(members)

    @opcode(b"]")
    def _op_empty_list(self) -> None:
        self.push(List())

    @opcode(b"l")
    def _op_list(self) -> None:
        members = self.pop_mark()
        self.push(List(members))

    @opcode(b"}")
    def _op_empty_dict(self) -> None:
        self.push(Dict())

    @opcode(b"d")
    def _op_dict(self) -> None:
        members = self.pop_mark()
        found = Dict()
        self._set_pairs(found, members)
        self.push(found)

    @opcode(b"\x8f")
    def _op_empty_set(self) -> None:
        self.push(List())

    @opcode(b"\x91")
    def _op_frozenset(self) -> None:
        members = self.pop_mark()
        self.push(List(members))

    def _set_pairs(self, target: Dict, members: list[Value]) -> None:
        if len(members) % 2:
            raise Damaged("a dictionary with a key that has no value", self.source.position)
        for at in range(0, len(members), 2):
            target.set(members[at], members[at + 1])

    def _add(self, members: list[Value]) -> None:
        target = self.stack[-1]
        if isinstance(target, List):
            target.extend(members)
        else:
            self.judge.adds(target, members, self.source.position)
            if isinstance(target, Obj):
                if not isinstance(target.payload, List):
                    target.payload = List()
                target.payload.extend(members)

    @opcode(b"a")
    def _op_append(self) -> None:
        self._add([self.stack.pop()])

    @opcode(b"e")
    def _op_appends(self) -> None:
        self._add(self.pop_mark())

    @opcode(b"\x90")
    def _op_additems(self) -> None:
        self._add(self.pop_mark())

    def _set(self, members: list[Value]) -> None:
        target = self.stack[-1]
        if isinstance(target, Dict):
            self._set_pairs(target, members)
            return
        self.judge.adds(target, members, self.source.position)
        if isinstance(target, Obj):
            if not isinstance(target.payload, Dict):
                target.payload = Dict()
            self._set_pairs(target.payload, members)

    @opcode(b"s")
    def _op_setitem(self) -> None:
        value = self.stack.pop()
        key = self.stack.pop()
        self._set([key, value])

    @opcode(b"u")
    def _op_setitems(self) -> None:
        self._set(self.pop_mark())

    # --- names, calls, state

    @opcode(b"c")
    def _op_global(self) -> None:
        module = self.line().decode("utf-8")
        name = self.line().decode("utf-8")
        self.push(self.judge.names(module, name, self.protocol, self.source.position))

    @opcode(b"\x93")
    def _op_stack_global(self) -> None:
        name = self.stack.pop()
        module = self.stack.pop()
        self.push(self.judge.names(module, name, self.protocol, self.source.position))

    def _call(self, callee: Value, args: Value, kwargs: Value = None, *, new: bool = False) -> None:
        self.push(self.judge.calls(callee, args, kwargs, self.source.position, new=new))

    @opcode(b"R")
    def _op_reduce(self) -> None:
        args = self.stack.pop()
        callee = self.stack.pop()
        self._call(callee, args)

    @opcode(b"\x81")
    def _op_newobj(self) -> None:
        args = self.stack.pop()
        callee = self.stack.pop()
        self._call(callee, args, new=True)

    @opcode(b"\x92")
    def _op_newobj_ex(self) -> None:
        kwargs = self.stack.pop()
        args = self.stack.pop()
        callee = self.stack.pop()
        self._call(callee, args, kwargs, new=True)

    @opcode(b"o")
    def _op_obj(self) -> None:
        members = self.pop_mark()
        callee = members.pop(0)
        self._call(callee, tuple(members))

    @opcode(b"i")
    def _op_inst(self) -> None:
        module = self.line().decode("ascii")
        name = self.line().decode("ascii")
        args = tuple(self.pop_mark())
        callee = self.judge.names(module, name, self.protocol, self.source.position)
        self._call(callee, args)

    @opcode(b"b")
    def _op_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        self.judge.builds(target, state, self.source.position)
        if isinstance(target, Obj):
            target.state = state
            target.builds += 1
            if self.arrays and isinstance(target.callee, Global) and self.judge.wraps_array(target.callee):
                self._read_array(target)

    def _read_array(self, wrapper: Obj) -> None:
        # joblib reads the array from the file, not from the frame: a frame that goes on beyond this point
        # would be executed by joblib after the array, while a linear reader takes it for array bytes
        if self.frame_end > self.source.position:
            raise Hostile("a frame hides opcodes behind an array", self.source.position)
        holds_stream = read_wrapped_array(wrapper, self.source)
        if holds_stream:
            inner = Machine(self.source, self.judge, arrays=False, nesting=self.nesting + 1)
            wrapper.payload = inner.run()

    # --- what an honest model file never holds

    @opcode(b"P")
    def _op_persid(self) -> None:
        key = self.line().decode("ascii", "replace")
        self.push(self.judge.foreign("a persistent id", key, self.source.position))

    @opcode(b"Q")
    def _op_binpersid(self) -> None:
        key = self.stack.pop()
        self.push(self.judge.foreign("a persistent id", key, self.source.position))

    @opcode(b"\x97")
    def _op_next_buffer(self) -> None:
        self.push(self.judge.foreign("an out-of-band buffer", None, self.source.position))

    def _extension(self, size: int) -> None:
        code = int.from_bytes(self.read(size), "little")
        self.push(self.judge.foreign("an extension code", code, self.source.position))

    @opcode(b"\x82")
    def _op_ext1(self) -> None:
        self._extension(1)

    @opcode(b"\x83")
    def _op_ext2(self) -> None:
        self._extension(2)

    @opcode(b"\x84")
    def _op_ext4(self) -> None:
        self._extension(4)
