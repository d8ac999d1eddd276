"""Where the jobs of a sweep run: one after the other, several at once, or on a cluster."""

from __future__ import annotations

import re
from collections.abc import Iterable

from lgrep.config.compose import compose_config, group_choices
from lgrep.config.spec import build, validate_spec
from lgrep.errors import ConfigError
from lgrep.sweeps.launchers.base import Launcher, Needs, Stop, Task
from lgrep.sweeps.launchers.cluster import Submitit
from lgrep.sweeps.launchers.local import Joblib, Sequential

__all__ = ["Joblib", "Launcher", "Needs", "Sequential", "Stop", "Submitit", "Task", "choose_launcher", "split_launcher"]

_FREE = re.compile(r"^launcher\.parameters\.")  # no file lists the options of sbatch
_OWN = re.compile(r"\+*launcher[.=]")


def split_launcher(arguments: Iterable[str]) -> tuple[list[str], list[str]]:
    """Arguments about the launcher, and those about the jobs.

    >>> split_launcher(["launcher=joblib", "seed=1,2", "launcher.jobs=2"])
    (['launcher=joblib', 'launcher.jobs=2'], ['seed=1,2'])
    """
    own: list[str] = []
    rest: list[str] = []
    for argument in arguments:
        (own if _OWN.match(argument) else rest).append(argument)
    return own, rest


def choose_launcher(arguments: Iterable[str]) -> Launcher:
    """The launcher that `launcher=NAME launcher.key=value ...` describe.

    Raises:
        ConfigError: an unknown one, or a wrong setting.
    """
    given = [_FREE.sub("++launcher.parameters.", argument.lstrip("+")) for argument in arguments]
    chosen = [argument.partition("=")[2] for argument in given if argument.startswith("launcher=")]
    known = group_choices("launcher")
    if any(name not in known for name in chosen):
        raise ConfigError(f"launcher={chosen[-1]}: no such launcher; allowed: {', '.join(known)}. Type launcher=joblib")
    values, _ = compose_config("sweep", given)
    launcher: Launcher = build(validate_spec(values["launcher"], "launcher"))
    return launcher
