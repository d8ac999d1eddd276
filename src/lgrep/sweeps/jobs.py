"""The jobs of a sweep: every combination of the values that the command line lists."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException

from lgrep.config.compose import group_choices, sweep_settings
from lgrep.errors import ConfigError


@dataclass(frozen=True)
class Job:
    """One combination.

    Attributes:
        number: from 1.
        swept: swept key -> value of this job, as typed.
        overrides: its whole command line.
    """

    number: int
    swept: dict[str, str]
    overrides: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The swept settings as one types them."""
        return " ".join(f"{key}={value}" for key, value in self.swept.items()) or "(nothing swept)"


def expand(config_name: str, arguments: Sequence[str]) -> list[Job]:
    """Jobs of a command line in Hydra's sweep syntax; the last key varies fastest.

    `key=a,b`, `key=range(1,4)`, `key=choice(a,b)` and `group=glob(*)` list values. An experiment may bring
    its own list in `hydra.sweeper.params`; the same key on the command line takes its place.

    Raises:
        ConfigError: arguments that cannot be read, or a range without a finite list of values.

    Example:
        >>> [job.text for job in expand("train", ["seed=1,2", "name=a"])]
        ['seed=1', 'seed=2']
    """
    given = parse_overrides(arguments)
    first = _combine(given)[0]
    typed = {override.key_or_group for override in given}
    configured = {k: v for k, v in sweep_settings(config_name, first.overrides).items() if k not in typed}
    return _combine([*given, *parse_overrides([f"{key}={values}" for key, values in configured.items()])])


def parse_overrides(arguments: Sequence[str]) -> list[Override]:
    """Arguments as Hydra reads them.

    Raises:
        ConfigError: they cannot be read.
    """
    try:
        return list(OverridesParser.create().parse_overrides(list(arguments)))
    except HydraException as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"cannot read the arguments ({first}): write key=value, and key=a,b to sweep") from error


def _combine(overrides: Sequence[Override]) -> list[Job]:
    fixed = [str(override.input_line) for override in overrides if not override.is_sweep_override()]
    swept = {o.get_key_element(): listed_values(o) for o in overrides if o.is_sweep_override()}
    jobs = []
    for number, values in enumerate(itertools.product(*swept.values()), 1):
        chosen = dict(zip(swept, values, strict=True))
        named = {key.lstrip("+"): value for key, value in chosen.items()}
        jobs.append(Job(number, named, [*fixed, *(f"{key}={value}" for key, value in chosen.items())]))
    return jobs


def listed_values(override: Override) -> list[str]:
    """Every value that a swept override lists, as one types it.

    Raises:
        ConfigError: an interval, or no value.
    """
    value: Any = override.value()
    if isinstance(value, Glob):
        values: list[str] = value.filter(group_choices(override.key_or_group))
    elif override.is_discrete_sweep():
        values = list(override.sweep_string_iterator())
    else:
        raise ConfigError(f"{override.input_line}: an interval has no list of values. Type {override.key_or_group}=a,b")
    if not values:
        raise ConfigError(f"{override.input_line}: no value is left to sweep over")
    return values
