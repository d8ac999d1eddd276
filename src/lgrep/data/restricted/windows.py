"""A long file, a few megabytes at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

MAX_TEXT = 2**20  # bytes of one string; published captions take a few kB
_WINDOW = 2**23
_AHEAD = MAX_TEXT + 1024  # of every position that `view` gives, so that one opcode is always whole
_PADDING = b"\0" * 16  # a fixed argument that is cut off reads zeros, and `move` notices


class Ended(ValueError):
    """The file ended before its content did."""


class Windows:
    """Moves over a file in windows that hold every opcode whole.

    Args:
        file: open for reading.
        start: first byte of the content.
        advance: called with the bytes read, for a bar.
    """

    def __init__(self, file: BinaryIO, start: int, advance: Callable[[int], None]) -> None:
        self.file = file
        self.start = start
        self.advance = advance
        self.restart()

    def restart(self) -> None:
        """Back to the first byte."""
        self.base = self.start  # byte of the file where the window begins
        self._pos, self._data, self._length, self._last = 0, b"", 0, False

    def view(self) -> tuple[bytes, int, int]:
        """A window, the position in it, and the end of the positions to read at before the next `move`.

        Raises:
            Ended: nothing is left.
        """
        if not self._last and self._length - self._pos <= _AHEAD:
            self.base += self._pos
            self.file.seek(self.base)
            data = self.file.read(_WINDOW)
            self._last = len(data) < _WINDOW
            self._data, self._pos, self._length = data + _PADDING, 0, len(data)
        if self._pos >= self._length:
            raise Ended
        return self._data, self._pos, self._length if self._last else self._length - _AHEAD

    def move(self, pos: int) -> None:
        """Go on at `pos` of the window.

        Raises:
            Ended: it lies beyond the end of the file.
        """
        if pos > self._length:
            raise Ended
        self.advance(pos - self._pos)
        self._pos = pos

    def left(self, pos: int) -> int:
        """Bytes of the file after `pos` of the window."""
        self.move(pos)
        self.file.seek(0, 2)
        return self.file.tell() - self.base - pos
