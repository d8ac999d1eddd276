"""Runs a test function on several processes joined by gloo.

The processes are started once per session (see `programs.py`) and wait for work, so a call costs milliseconds.
A function is sent as (file, name), so it has to stand at the top level of the test file.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import multiprocessing
import os
import pickle
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from programs import Program

TIMEOUT = 60.0  # seconds that a collective, and a whole call beyond its start, may take
_pool: list[tuple[Program, Connection]] = []


CONNECT_ATTEMPTS = 3


def run_processes(function: Callable[..., Any], world_size: int, *args: Any) -> list[Any]:
    """Calls `function(rank, *args)` on `world_size` processes of one gloo group, one torch thread each.

    Args:
        function: a top-level function of a test file.
        world_size: number of processes.
        args: picklable; tensors on the CPU.

    Returns:
        The results in rank order (tensors come back detached).

    Raises:
        RuntimeError: a process raised, with its traceback, or none answered in time.
    """
    target = (inspect.getfile(function), function.__name__)
    for attempt in range(CONNECT_ATTEMPTS):
        _start(world_size)
        with tempfile.TemporaryDirectory() as folder:
            store = (Path(folder) / "store").as_uri()
            for rank in range(world_size):
                _pool[rank][1].send_bytes(pickle.dumps((sys.path, target, store, rank, world_size, args)))
            try:
                return _collect(world_size)
            except RuntimeError as error:
                # gloo itself failed to connect, before any of the tested code ran
                if "connectFullMesh failed" not in str(error) or attempt + 1 == CONNECT_ATTEMPTS:
                    raise
    raise AssertionError("unreachable")


def close_processes() -> None:
    """Ends the waiting processes."""
    for process, connection in _pool:
        with contextlib.suppress(OSError):
            connection.send_bytes(pickle.dumps(None))
        connection.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    _pool.clear()


def _start(number: int) -> None:
    while len(_pool) < number:
        ours, theirs = multiprocessing.Pipe()
        with theirs:  # a socket, which carries both directions
            _pool.append((Program([sys.executable, __file__], stdin=theirs.fileno()), ours))


def _collect(world_size: int) -> list[Any]:
    results: dict[int, Any] = {}
    waiting: dict[Any, int] = {_pool[rank][1]: rank for rank in range(world_size)}
    while waiting:
        ready = wait(list(waiting), timeout=2 * TIMEOUT)
        if not ready:
            _kill()
            raise RuntimeError(f"Processes {sorted(waiting.values())} gave no answer within {2 * TIMEOUT} s.")
        for connection in ready:
            assert isinstance(connection, Connection)
            rank = waiting.pop(connection)
            failure, results[rank] = _answer(connection)
            if failure:
                _kill()  # the others may wait for this one in a collective
                raise RuntimeError(f"Process {rank} of {world_size} failed:\n{failure}")
    return [results[rank] for rank in range(world_size)]


def _answer(connection: Connection) -> tuple[str | None, Any]:
    try:
        answer: tuple[str | None, Any] = pickle.loads(connection.recv_bytes())
    except EOFError:
        return "the process ended without an answer", None
    return answer


def _kill() -> None:
    for process, connection in _pool:
        connection.close()
        process.kill()
        process.wait()
    _pool.clear()


def _serve(connection: Connection) -> None:
    import torch

    torch.set_num_threads(1)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the host's own name may not resolve
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while (task := pickle.loads(connection.recv_bytes())) is not None:
            connection.send_bytes(_run(*task))


def _run(path: list[str], target: tuple[str, str], store: str, rank: int, world_size: int, args: Any) -> bytes:
    import torch.distributed as dist

    sys.path[:] = path
    try:
        function = getattr(_load(target[0]), target[1])
        limit = timedelta(seconds=TIMEOUT)
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size, timeout=limit)
        answer = pickle.dumps((None, _detached(function(rank, *args))))
    except BaseException:
        # the group stays open: closing it would make the others fail first, and hide this traceback
        return pickle.dumps((traceback.format_exc(), None))
    dist.destroy_process_group()
    return answer


@cache
def _load(file: str) -> Any:
    """The test file as a module; by path, since names of test files may repeat."""
    spec = importlib.util.spec_from_file_location(f"worker_{Path(file).stem}_{abs(hash(file))}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _detached(value: Any) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {key: _detached(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_detached(entry) for entry in value)
    return value


if __name__ == "__main__":
    _serve(Connection(os.dup(0)))
