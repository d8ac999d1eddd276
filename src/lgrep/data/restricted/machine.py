"""The interpreter of the opcodes that a published object file may contain."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

from lgrep.data.restricted.opcodes import (
    ARGUMENTS,
    BYTES,
    DTYPE,
    ENCODE,
    NAMES,
    NDARRAY,
    RECONSTRUCT,
    SCALAR,
    STOP,
    Refused,
    argument_at,
    known_name,
)
from lgrep.data.restricted.values import CONTAINERS, MAX_DEPTH, Array, Kind, Sink, check_plain, python_scalar, weight
from lgrep.data.restricted.windows import Windows

MAX_PENDING = 2**25  # bytes of the file between two batches of records; published files hand on every 100 kB or so
MAX_GROWTH = 32  # times the file's size that repeated references may stand for


class Machine:
    """Builds the values of a file and hands on the items of its outermost list.

    Args:
        windows: the file.
        shared: numbers of the values that it refers to again.
        size: bytes of the file.
    """

    def __init__(self, windows: Windows, shared: set[int], size: int) -> None:
        self.windows = windows
        self.shared = shared
        self.allowance = MAX_GROWTH * size + 2**20
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.frozen: set[int] = set()  # containers that have been referred to again
        self.number = 0  # of the next value that is remembered
        self.ready: list[Any] = []
        self.sunk = False
        self.handlers: list[Callable[[bytes], None]] = [
            getattr(self, f"_{NAMES[code].lower()}", self._nothing) if code in NAMES else self._nothing
            for code in range(256)
        ]

    def batches(self) -> Iterator[list[Any]]:
        """Items of the outermost list, or one batch with the file's only object.

        Raises:
            Refused: beyond the limits, or no valid sequence of opcodes.
            Ended: the file is cut short.
        """
        handlers, kinds, pending = self.handlers, ARGUMENTS, 0
        while True:
            data, pos, safe = self.windows.view()
            handed_on = pos
            try:
                while pos < safe:
                    code = data[pos]
                    kind = kinds[code]
                    if kind == 0:
                        pos += 1
                        handlers[code](b"")
                        if self.ready:
                            yield self._handed_on()
                            handed_on, pending = pos, 0
                        continue
                    if kind == STOP:
                        yield from self._last()
                        return
                    argument, pos = argument_at(data, pos, kind)
                    handlers[code](argument)
            except (IndexError, KeyError, TypeError, ValueError, struct.error) as error:
                raise self._invalid(code, pos, error) from error
            pending += pos - handed_on
            if pending > MAX_PENDING:
                raise Refused(f"one object takes more than {MAX_PENDING:,} bytes")
            self.windows.move(pos)

    def _invalid(self, code: int, pos: int, error: Exception) -> Refused:
        if isinstance(error, Refused):
            return error
        name, byte = NAMES.get(code, hex(code)), self.windows.base + pos
        return Refused(f"the opcode {name} before byte {byte:,} does not fit what comes before it")

    def _handed_on(self) -> list[Any]:
        batch, self.ready = self.ready, []
        for item in batch:
            check_plain(item, MAX_DEPTH)
        return batch

    def _last(self) -> Iterator[list[Any]]:
        if len(self.stack) != 1 or self.marks:
            raise Refused("it does not end with one object")
        if not self.sunk:
            check_plain(self.stack[0], MAX_DEPTH)
            yield [self.stack[0]]
        elif type(self.stack[0]) not in (Sink, Array):
            raise Refused("it is neither a list nor an array")

    def _nothing(self, _: bytes) -> None:
        """PROTO and FRAME say nothing about the values; other opcodes do not come so far."""

    def _none(self, _: bytes) -> None:
        self.stack.append(None)

    def _newtrue(self, _: bytes) -> None:
        self.stack.append(True)

    def _newfalse(self, _: bytes) -> None:
        self.stack.append(False)

    def _binint(self, argument: bytes) -> None:
        self.stack.append(int.from_bytes(argument, "little", signed=True))

    _long1 = _binint

    def _binint1(self, argument: bytes) -> None:
        self.stack.append(int.from_bytes(argument, "little"))

    _binint2 = _binint1

    def _binfloat(self, argument: bytes) -> None:
        self.stack.append(struct.unpack(">d", argument)[0])

    def _binunicode(self, argument: bytes) -> None:
        self.stack.append(str(argument, "utf-8", "surrogatepass"))

    _short_binunicode = _binunicode

    def _binbytes(self, argument: bytes) -> None:
        self.stack.append(argument)

    _short_binbytes = _binbytes

    def _mark(self, _: bytes) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def _marked(self) -> list[Any]:
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def _empty_tuple(self, _: bytes) -> None:
        self.stack.append(())

    def _tuple(self, _: bytes) -> None:
        items = self._marked()
        self.stack.append(tuple(items))

    def _tuple1(self, _: bytes) -> None:
        self.stack[-1] = (self.stack[-1],)

    def _tuple2(self, _: bytes) -> None:
        self.stack[-2:] = [(self.stack[-2], self.stack[-1])]

    def _tuple3(self, _: bytes) -> None:
        self.stack[-3:] = [(self.stack[-3], self.stack[-2], self.stack[-1])]

    def _empty_dict(self, _: bytes) -> None:
        self.stack.append({})

    def _empty_list(self, _: bytes) -> None:
        self.stack.append(Sink() if self._is_outermost() else [])

    def _is_outermost(self) -> bool:
        """The first list of a file that holds a list, or of the state of an array that is all the file holds."""
        if self.sunk:
            return False
        alone = not self.marks and not self.stack
        of_array = len(self.marks) == 1 and len(self.stack) == 4 and [type(one) for one in self.marks[0]] == [Array]
        self.sunk = alone or of_array
        return self.sunk

    def _append(self, _: bytes) -> None:
        item = self.stack.pop()
        self._extend([item])

    def _appends(self, _: bytes) -> None:
        self._extend(self._marked())

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is Sink:
            self.ready += items
        elif type(target) is list and id(target) not in self.frozen:
            target += items
        else:
            raise TypeError

    def _setitem(self, _: bytes) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def _setitems(self, _: bytes) -> None:
        self._update(self._marked())

    def _update(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2 or id(target) in self.frozen:
            raise TypeError
        for i in range(0, len(items), 2):
            key = items[i]
            if type(key) is not str and type(key) is not int:  # others may take a hostile time to hash
                raise TypeError
            target[key] = items[i + 1]

    def _memoize(self, _: bytes) -> None:
        if self.number in self.shared:
            self.memo[self.number] = self.stack[-1]
        self.number += 1

    def _binput(self, argument: bytes) -> None:
        number = int.from_bytes(argument, "little")
        if number in self.shared:
            self.memo[number] = self.stack[-1]

    _long_binput = _binput

    def _binget(self, argument: bytes) -> None:
        """A value once more. Repetition is limited, or a small file could stand for terabytes."""
        value = self.memo[int.from_bytes(argument, "little")]
        kind = type(value)
        if kind is str or kind is bytes:
            self.allowance -= len(value)
        elif kind in CONTAINERS:
            self.allowance -= weight(value, self.allowance)
            self.frozen.add(id(value))
        elif kind is Sink:
            raise Refused("its list contains itself")
        if self.allowance < 0:
            raise Refused(f"its repeated references stand for more than {MAX_GROWTH} times its size")
        self.stack.append(value)

    _long_binget = _binget

    def _global(self, name: Any) -> None:
        self.stack.append(name)

    def _stack_global(self, _: bytes) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(known_name(module, name))

    def _reduce(self, _: bytes) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if function is RECONSTRUCT and arguments[0] is NDARRAY and arguments[1:] == ((0,), b"b"):
            self.stack.append(Array())
        elif function is DTYPE and type(arguments[0]) is str:
            self.stack.append(Kind(arguments[0]))
        elif function is SCALAR:
            self.stack.append(python_scalar(*arguments))
        elif function is ENCODE and arguments[1:] == ("latin1",) and type(arguments[0]) is str:
            self.stack.append(arguments[0].encode("latin1"))
        elif function is BYTES and arguments == ():
            self.stack.append(b"")
        else:
            raise Refused(f"it calls {getattr(function, 'name', 'an object')} with unusual arguments")

    def _build(self, _: bytes) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is Kind and type(state) is tuple and state[1] in ("<", ">", "|", "="):
            target.order = ">" if state[1] == ">" else "<"
        elif type(target) is Array and type(state) is tuple and len(state) == 5:
            kind, items = state[2], state[4]
            if type(kind) is not Kind or kind.code not in ("O8", "O4", "O"):
                raise Refused("it contains an array of something else than objects")
            if type(items) is not Sink:  # an array within a record
                check_plain(items, MAX_DEPTH)
                self.stack[-1] = items
        else:
            raise Refused("it sets the state of an object")
