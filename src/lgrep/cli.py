"""What the entry points share: arguments, help, error text and exit codes."""

from __future__ import annotations

import errno
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

# OpenMP's threads spin for milliseconds while they wait, by default; as soon as anything else (a loading worker,
# another job) wants a core, a step takes many times longer. A short spin costs little on an idle machine.
# Must be set before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from lgrep.config.compose import compose_config, experiments, group_choices
from lgrep.errors import ConfigError, Interrupted, LgrepError, did_you_mean
from lgrep.sweeps.outcome import alone, tell_outcome

Job = Callable[[dict[str, Any], dict[str, str]], Any]

FLAGS = ("-h", "--help", "--experiments", "-m", "--multirun")
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)


def run(
    config_name: str,
    usage: str,
    job: Job,
    argv: Sequence[str] | None = None,
    demo: str | None = None,
    check: Job | None = None,
) -> int:
    """Compose the configuration of an entry point and do its job.

    Args:
        config_name: file of `configs/` to compose.
        usage: text for `--help`.
        job: gets the composed configuration and the chosen file of each group.
        argv: arguments; the process's own by default.
        demo: experiment to run when neither an experiment nor a method is chosen.
        check: looks at a composed configuration without doing the job, and gives the typed one; entry points
            that have it can sweep (`-m`).

    Returns:
        Exit code: 0 done, 1 failed, 2 wrong configuration, 3 data, 4 checkpoint, 130 interrupted, 143 terminated, 138 preempted
        (SIGUSR1).
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(arguments):
        print(usage + _choices_text(config_name))
        return 0
    if "--experiments" in arguments:
        for name, line in experiments().items():
            print(f"{name:32s} {line}")
        return 0
    debug = "debug=true" in arguments or "debug=True" in arguments
    try:
        _check_flags(arguments)
        if not {"-m", "--multirun"} & set(arguments) and any(re.match(r"\+*launcher[.=]", a) for a in arguments):
            raise ConfigError("launcher=... starts the jobs of a sweep, of one job at least. Add -m")
        if {"-m", "--multirun"} & set(arguments):
            return _sweep(config_name, with_demo([a for a in arguments if a not in FLAGS], demo), check)
        values, choices = compose_config(config_name, with_demo(arguments, demo))
        with alone():
            tell_outcome(job(values, choices))
    except BaseException as error:  # every way to end has its message and its exit code
        return _end(error, debug)
    return 0


def program(main: Callable[..., int]) -> Callable[..., int]:
    """The `main` of a program with arguments of its own: its errors get the same words and exit codes."""

    @wraps(main)
    def worded(*arguments: Any) -> int:
        try:
            return main(*arguments)
        except BaseException as error:
            return _end(error, debug=False)

    return worded


def _end(error: BaseException, debug: bool) -> int:
    """Say why the job ended; its exit code."""
    if isinstance(error, Interrupted) and _rank() > 0:
        return 0  # the first process tells; Lightning kills all when one that it started ends with another code
    message, code = _explain(error)
    tell_outcome(None, message or f"{type(error).__name__}: {error}", code)
    if debug or message is None:
        traceback.print_exception(error)
    if message is not None:
        print(f"{'' if code > 128 else 'error: '}{message}", file=sys.stderr)
    return code


def _explain(error: BaseException) -> tuple[str | None, int]:
    """Message and exit code of what ended the job; no message for a defect, which shows its traceback."""
    if isinstance(error, LgrepError):
        return str(error), error.exit_code
    if isinstance(error, Interrupted):
        return f"interrupted: {error}; everything is saved. Type the same command to go on from there", error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        place = f" while writing {error.filename}" if error.filename else ""
        return f"{error.strerror}{place}. Make room and type the same command to go on from what is saved", 1
    if isinstance(error, OSError) and error.errno in UNUSABLE and error.filename:
        return f"{error.filename}: {error.strerror}. Type another place", 1
    if isinstance(error, SystemExit):
        raise error
    return None, 1


def _check_flags(arguments: list[str]) -> None:
    for argument in arguments:
        if argument.startswith("-") and argument not in FLAGS:
            raise ConfigError(
                f"{argument}: unknown flag; {did_you_mean(argument, FLAGS).rstrip('?')}. Settings are typed key=value, e.g. seed=1"
            )


def _sweep(config_name: str, arguments: list[str], check: Job | None) -> int:
    if check is None:
        raise ConfigError("-m: this program does not sweep; `python train.py -m` does")
    from lgrep.sweeps.run import run_sweep

    return run_sweep(config_name, arguments, check)


def _rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


def with_demo(arguments: list[str], demo: str | None) -> list[str]:
    """The arguments, with the demo's experiment where none and no method is chosen."""
    chosen = {argument.split("=")[0].lstrip("+") for argument in arguments}
    if demo is None or chosen & {"experiment", "method"}:
        return arguments
    if _rank() == 0:
        print(f"no experiment chosen: running the embedded demo, +experiment={demo}")
    return [f"+experiment={demo}", *arguments]


def _choices_text(config_name: str) -> str:
    groups = ("experiment", "data", "pairing", "method", "augment", "backbone") if config_name == "train" else ()
    lines = [f"  {group:11s} {', '.join(group_choices(group))}" for group in groups]
    return ("\ngroups and their choices (group=choice):\n" + "\n".join(lines)) if lines else ""
