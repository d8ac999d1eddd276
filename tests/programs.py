"""Programs started from a process that has imported everything already.

A fresh interpreter spends six seconds of a core on importing torch and Lightning. `Program` is `subprocess.Popen`,
but Python programs are forked from a server that has these imports behind it: real processes, with their own
arguments, environment, folder, files, process group, signals and exit status. What a program starts with
`subprocess.Popen` (Lightning's further ranks, the jobs of a sweep) is forked from the same server.

Two things differ from a fresh interpreter: modules are imported already, and all programs of a session have the
same string hashes. So each entry point, and each kind of run, is also started once with plain `subprocess`.
LGREP_COLD_PROGRAMS=1 starts all of them that way, as does a system other than Linux.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import inspect
import json
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import types
import weakref
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

SHARED = "LGREP_PROGRAM_SERVER"  # where the server of all workers listens
COLD = sys.platform != "linux" or bool(os.environ.get("LGREP_COLD_PROGRAMS"))
Popen = subprocess.Popen  # programs replace the module's
# A test may have changed them when the server starts. The variable keeps torch from touching a GPU when it counts them.
BEFORE = {"env": {**os.environ, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}, "cwd": os.getcwd()}


class Program(Popen):  # type: ignore[type-arg]
    """`subprocess.Popen`; `[sys.executable, FILE.py or "-c", ...]` is forked from the server."""

    _status: socket.socket | None = None

    def _execute_child(self, *arguments: Any) -> None:
        asked = inspect.signature(Popen._execute_child).bind(self, *arguments).arguments  # type: ignore[attr-defined]
        command = [os.fspath(word) for word in asked["args"]] if isinstance(asked["args"], (list, tuple)) else []
        python = command[:1] == [sys.executable] and command[1:] and (command[1] == "-c" or command[1].endswith(".py"))
        if COLD or not python or any(asked[name] for name in ("preexec_fn", "pass_fds")):
            super()._execute_child(*arguments)  # type: ignore[misc]
            return
        wanted = [asked[name] for name in ("p2cread", "c2pwrite", "errwrite")]
        files = [number if file == -1 else file for number, file in enumerate(wanted)]
        group = asked.get("process_group", -1)
        task = {
            "argv": command[1:],
            "cwd": os.path.abspath(asked["cwd"] or "."),
            "env": dict(os.environ if asked["env"] is None else asked["env"]),
            "group": os.getpgid(0) if group in (None, -1) else group,
            "session": asked["start_new_session"],
        }
        self._status = socket.socket(socket.AF_UNIX)
        self._status.connect(server_address())
        message = json.dumps(task).encode()
        socket.send_fds(self._status, [struct.pack("I", len(message))], files)
        self._status.sendall(message)
        (self.pid,) = struct.unpack("i", _exactly(self._status, 4))
        self._child_created = True
        pipes = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(asked[name] for name in pipes))  # type: ignore[attr-defined]

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if self._status is None:
            return super()._try_wait(wait_flags)  # type: ignore[misc,no-any-return]
        self._status.setblocking(not wait_flags & os.WNOHANG)
        try:
            (status,) = struct.unpack("i", _exactly(self._status, 4))
        except BlockingIOError:
            return 0, 0
        self._status.close()
        return self.pid, status

    def _internal_poll(self, *arguments: Any, **options: Any) -> int | None:
        if self._status is None:
            return super()._internal_poll(*arguments, **options)  # type: ignore[misc,no-any-return]
        if self.returncode is None and self._waitpid_lock.acquire(False):  # type: ignore[attr-defined]
            try:
                pid, status = self._try_wait(os.WNOHANG)
                if pid:
                    self._handle_exitstatus(status)  # type: ignore[attr-defined]
            except ConnectionError:
                if not options and not arguments:  # `__del__` asks with some, when the server may have ended before
                    raise
            finally:
                self._waitpid_lock.release()  # type: ignore[attr-defined]
        return self.returncode


def run_program(command: list[str], timeout: float = 300, **options: Any) -> subprocess.CompletedProcess[str]:
    """`subprocess.run` of a `Program`, with its output captured as text."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with Program(command, **pipes, **options) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


@cache
def server_address() -> str:
    """Where the server listens: the one that `share_server` began, or one of this process's own."""
    path = os.environ.get(SHARED) or _start_server()
    for _ in range(1200):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as attempt:
            attempt.connect(path)
            return path
        time.sleep(0.1)
    raise AssertionError("the server of programs did not start")


def share_server() -> None:
    """Begins to start a server for all processes that this one will start."""
    if not COLD:
        os.environ[SHARED] = _start_server()


def _start_server() -> str:
    folder = tempfile.TemporaryDirectory(prefix="lgrep-programs-")
    path = f"{folder.name}/server"
    process = Popen([sys.executable, __file__, path], stdin=subprocess.PIPE, process_group=0, **BEFORE)  # type: ignore[call-overload]
    assert process.stdin is not None

    def end(owner: int = os.getpid()) -> None:
        if os.getpid() == owner:
            process.stdin.close()
            process.wait(10)
            folder.cleanup()

    atexit.register(end)
    return path


def _exactly(connection: socket.socket, number: int) -> bytes:
    data = b""
    while len(data) < number:
        part = connection.recv(number - len(data))
        if not part:
            raise ConnectionError("the server of programs is gone")
        data += part
    return data


# What nearly every program imports. lgrep.cli is first: it sets what OpenMP reads when torch is imported.
PRELOADED = (
    *("lgrep.cli", "lgrep.training.fit", "lgrep.methods", "lgrep.sweeps.run", "lgrep.evaluation.run"),
    *("timm", "torchvision", "matplotlib.pyplot", "hydra", "open_clip", "pandas", "lgrep.mining"),
)


def serve(path: str) -> dict[str, Any]:
    """Forks a process per request and tells how it ended; returns in each forked process, with its task."""
    gc.disable()
    for name in PRELOADED:
        importlib.import_module(name)
    assert threading.active_count() == 1, "a process with threads cannot be forked"
    for finalizer in weakref.finalize._registry:  # type: ignore[attr-defined]
        finalizer.atexit = False  # taking torch's operators apart took 40 ms of every program
    gc.freeze()  # a collection would copy every page of the forked process
    gc.enable()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj == 0:
                os._exit(0)  # who started the server is gone
            elif key.fileobj is listener:
                connection, _ = listener.accept()
                try:
                    task, files = _request(connection)
                except (OSError, struct.error):  # who asked is gone
                    connection.close()
                    continue
                if (pid := os.fork()) == 0:
                    _close(listener, connection, selector)
                    return task | {"files": files, "address": path}
                if not task["session"]:
                    with contextlib.suppress(OSError):  # here as well as there: it holds before anyone goes on
                        os.setpgid(pid, task["group"])
                for file in files:
                    os.close(file)
                with contextlib.suppress(OSError):
                    connection.sendall(struct.pack("i", pid))
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, connection))
            else:
                selector.unregister(key.fd)
                os.close(key.fd)
                pid, connection = key.data
                with contextlib.suppress(OSError), connection:  # nobody may be waiting any more
                    connection.sendall(struct.pack("i", os.waitpid(pid, 0)[1]))


def _close(listener: socket.socket, connection: socket.socket, selector: selectors.BaseSelector) -> None:
    """Closes what belongs to the server, now: a later collection would close another file of that number."""
    for key in list(selector.get_map().values()):
        if key.data is not None:
            os.close(key.fd)
            key.data[1].close()
    for thing in (listener, connection, selector):
        thing.close()


def _request(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    data, files, _, _ = socket.recv_fds(connection, 4, 3)
    (length,) = struct.unpack("I", data)
    return json.loads(_exactly(connection, length)), files


def become(task: dict[str, Any]) -> None:
    """Turns the forked process into the program and runs it to its end."""
    global server_address
    for number, file in enumerate(task["files"]):
        os.dup2(file, number)
        os.close(file)
    if task["session"]:
        os.setsid()
    else:
        os.setpgid(0, task["group"])
    os.chdir(task["cwd"])
    os.environ.clear()
    os.environ.update(task["env"])
    server_address = lambda: task["address"]  # noqa: E731
    subprocess.Popen = Program  # type: ignore[misc]
    _forget()
    path, *_ = sys.argv = task["argv"]
    source = Path(path).read_text(encoding="utf-8") if path != "-c" else sys.argv.pop(1)
    sys.path[0] = os.path.dirname(os.path.abspath(path)) if path != "-c" else ""
    main = types.ModuleType("__main__")
    main.__file__ = path
    sys.modules["__main__"] = main
    _end(lambda: exec(compile(source, path, "exec"), main.__dict__))


def _end(program: Callable[[], None]) -> None:
    """Runs it and ends as an interpreter does, but for the seconds that taking thousands of modules apart costs."""
    code = 0
    try:
        program()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if code and not isinstance(error.code, int):
            print(error.code, file=sys.stderr)
    except BaseException as error:
        code = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
        sys.excepthook(type(error), error, error.__traceback__)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code & 0xFF)


def _forget() -> None:
    """What modules read from the environment, or drew, when the server imported them."""
    import numpy as np
    import torch
    from pytorch_lightning.utilities.rank_zero import rank_zero_only

    signal.signal(signal.SIGINT, signal.default_int_handler)
    tempfile.tempdir = None
    np.random.seed()
    torch.default_generator.seed()
    rank_zero_only.rank = int(os.environ.get("LOCAL_RANK", "0"))


if __name__ == "__main__":
    become(serve(sys.argv[1]))
