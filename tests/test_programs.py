"""Forked programs behave as those of a fresh interpreter do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from programs import Program, run_program

Start = Callable[..., subprocess.CompletedProcess[str]]


def plain(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, **options)  # type: ignore[call-overload]


def outcome(start: Start, code: str, *arguments: str, **options: object) -> tuple[int, str, str]:
    done = start([sys.executable, "-c", code, *arguments], **options)
    return done.returncode, done.stdout, (done.stderr.splitlines() or [""])[-1]


@pytest.mark.parametrize(
    "code",
    [
        "import os, sys; print(sys.argv, os.getcwd(), os.environ['A'], sorted(os.environ)); sys.exit(3)",
        "import sys; sys.exit('a message')",
        "raise ValueError(7)",
        "raise KeyboardInterrupt",
        "import os; os.kill(os.getpid(), 9)",
        "import atexit, threading; atexit.register(print, 'last'); threading.Timer(0.1, print, ['thread']).start()",
        "import sys; print(sys.stdin.read(), __name__, sys.path[0], sys.modules['__main__'].__spec__)",
        "import subprocess, sys; print(subprocess.run([sys.executable, '-c', 'raise SystemExit(5)']).returncode)",
        "import os; print(os.getpgid(0) == os.getpid())",
        "import threading; print(threading.active_count())",
    ],
)
def test_it_ends_as_in_a_fresh_interpreter(code: str, tmp_path: Path) -> None:
    options = {"cwd": tmp_path, "env": {**os.environ, "A": "1"}, "stdin": subprocess.DEVNULL}
    assert outcome(run_program, code, "x y", **options) == outcome(plain, code, "x y", **options)


def test_a_script_has_its_folder_and_its_own_process_group(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("value = 4")
    script = tmp_path / "script.py"
    script.write_text("import os, beside; print(__file__, beside.value, os.getpgid(0) == os.getpid())")
    done = run_program([sys.executable, str(script)], process_group=0)
    assert done.stdout.split() == [str(script), "4", "True"], done.stderr


def test_a_session_of_its_own() -> None:
    code = "import os; print(os.getsid(0) == os.getpgid(0) == os.getpid())"
    assert run_program([sys.executable, "-c", code], start_new_session=True).stdout == "True\n"
    assert run_program([sys.executable, "-c", code]).stdout == "False\n"


def test_signals_and_waiting() -> None:
    with Program([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == process.poll() == -signal.SIGTERM


def test_draws_differ_between_programs() -> None:
    code = "import random, numpy, torch; print(random.random(), numpy.random.rand(), torch.rand(1).item())"
    first, second = (outcome(run_program, code)[1].split() for _ in range(2))
    assert not set(first) & set(second)
