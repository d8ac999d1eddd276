"""Who does what: files that say which process is about a piece of work, on one or many machines."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

BEAT = 5.0  # seconds between two signs of life
STALE = 60.0  # seconds without one after which the owner counts as dead


def machine() -> str:
    """Name of the running system; containers on one kernel share it, as they share its locks."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return socket.gethostname()


class Claims:
    """Claims on named pieces of work.

    The owner of a claim holds a lock on its file, which the system frees when the process ends, however it ends: on the
    same machine a dead owner is seen at once. Elsewhere, and where a file system has no locks, a claim counts as
    dead when its file did not change for `stale` seconds of the observer's own clock. In rare races two
    processes get the same piece: this costs time and nothing else, since finished work is put in place whole and is the
    same whoever did it.

    Args:
        folder: of the files, one per claim.
        stale: see above.
        beat: seconds between two signs of life.
    """

    def __init__(self, folder: Path, stale: float = STALE, beat: float = BEAT) -> None:
        self.folder, self.stale, self.beat = folder, stale, beat
        self._seen: dict[str, tuple[int, float]] = {}  # name -> (time of the last change, when we saw it first)

    @contextmanager
    def take(self, name: str) -> Iterator[bool]:
        """Claim a piece of work for the time of the block; whether it could be had."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / name
        handle = self._open(path)
        if handle is None:
            yield False
            return
        ended = threading.Event()
        thread = threading.Thread(target=self._live, args=(handle, ended), daemon=True)
        thread.start()
        try:
            yield True
        finally:
            ended.set()
            thread.join()
            with suppress(OSError):
                if os.fstat(handle).st_ino == os.stat(path).st_ino:
                    path.unlink()
            os.close(handle)

    def _open(self, path: Path) -> int | None:
        """A handle of the claim, locked and signed by this process; None when another process has it."""
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        except FileExistsError:
            return self._take_over(path)
        self._sign(handle, _lock(handle))
        return handle

    def _take_over(self, path: Path) -> int | None:
        """The claim of a process that is dead."""
        try:
            handle = os.open(path, os.O_RDWR)
        except OSError:
            return None  # just given back; the next look finds it free
        owner = _owner(handle)
        locked = _lock(handle)
        here = bool(owner) and owner.get("machine") == machine() and owner.get("locks") is True
        dead = locked if here else self._unchanged(path.name, os.fstat(handle).st_mtime_ns)
        same = False
        with suppress(OSError):
            same = os.stat(path).st_ino == os.fstat(handle).st_ino
        if not (dead and same):
            os.close(handle)
            return None
        self._sign(handle, locked)
        return handle

    def _unchanged(self, name: str, changed: int) -> bool:
        before, since = self._seen.get(name, (None, 0.0))
        if before != changed:
            self._seen[name] = (changed, time.monotonic())
            return False
        return time.monotonic() - since > self.stale

    def _sign(self, handle: int, locked: bool) -> None:
        text = json.dumps({"machine": machine(), "process": os.getpid(), "locks": locked}).encode()
        os.ftruncate(handle, 0)
        os.pwrite(handle, text, 0)

    def _live(self, handle: int, ended: threading.Event) -> None:
        while not ended.wait(self.beat):
            with suppress(OSError):
                os.utime(handle)


def _lock(handle: int) -> bool:
    """Lock an open file without waiting; whether that worked."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _owner(handle: int) -> dict[str, object]:
    try:
        found = json.loads(os.pread(handle, 4096, 0))
    except (OSError, ValueError):
        return {}  # its owner did not come to sign it
    return found if isinstance(found, dict) else {}
