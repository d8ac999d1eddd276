"""What the entry points share: arguments, help, error text and exit codes."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

# OpenMP's threads spin for milliseconds while they wait, by default; as soon as anything else (a loading worker,
# another job) wants a core, a step takes many times longer. A short spin costs little on an idle machine.
# Must be set before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from lgrep.config.compose import compose_config, experiments, group_choices
from lgrep.errors import LgrepError

Job = Callable[[dict[str, Any], dict[str, str]], Any]


def run(config_name: str, usage: str, job: Job, argv: Sequence[str] | None = None, demo: str | None = None) -> int:
    """Compose the configuration of an entry point and do its job.

    Args:
        config_name: file of `configs/` to compose.
        usage: text for `--help`.
        job: gets the composed configuration and the chosen file of each group.
        argv: arguments; the process's own by default.
        demo: experiment to run when neither an experiment nor a method is chosen.

    Returns:
        Exit code: 0 done, 1 failed, 2 wrong configuration, 3 data, 4 checkpoint, 130 interrupted.
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
        values, choices = compose_config(config_name, _with_demo(arguments, demo))
        job(values, choices)
    except LgrepError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _with_demo(arguments: list[str], demo: str | None) -> list[str]:
    chosen = {argument.split("=")[0].lstrip("+") for argument in arguments}
    if demo is None or chosen & {"experiment", "method"}:
        return arguments
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        print(f"no experiment chosen: running the embedded demo, +experiment={demo}")
    return [f"+experiment={demo}", *arguments]


def _choices_text(config_name: str) -> str:
    groups = ("experiment", "data", "pairing", "method", "augment", "backbone") if config_name == "train" else ()
    lines = [f"  {group:11s} {', '.join(group_choices(group))}" for group in groups]
    return ("\ngroups and their choices (group=choice):\n" + "\n".join(lines)) if lines else ""
