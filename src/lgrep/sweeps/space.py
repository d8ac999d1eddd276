"""The search space of a study, typed as overrides."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from lgrep.errors import ConfigError
from lgrep.sweeps.jobs import listed_values, parse_overrides

# what Hydra's grammar has no name for
_SHORT = re.compile(
    r"(?P<key>[^=]+)=(?P<kind>log|uniform|int\(log|int)\(\s*(?P<low>[^,()]+?)\s*,\s*(?P<high>[^,()]+?)\s*\)+"
)


@dataclass(frozen=True)
class Parameter:
    """A setting that is searched.

    Attributes:
        key: as typed, a `+` included.
        kind: numbers of a range, or one of several texts.
        low, high: ends of the range, both included.
        step: distance of the numbers that are possible; None: all.
        log: searched by order of magnitude.
        choices: texts.
    """

    key: str
    kind: Literal["float", "int", "choice"]
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False
    choices: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The setting, without marks."""
        return self.key.lstrip("+")

    def suggest(self, trial: Any) -> str:
        """The override of a trial of Optuna: a new value, or the one that the trial has already."""
        if self.kind == "choice":
            value: Any = trial.suggest_categorical(self.name, self.choices)
        elif self.kind == "int":
            value = trial.suggest_int(self.name, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        else:
            value = trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log)
        return f"{self.key}={value}"

    def corners(self) -> tuple[str, str]:
        """The first and the last override that are possible."""
        ends: tuple[Any, Any] = (self.low, self.high)
        if self.kind == "choice":
            ends = (self.choices[0], self.choices[-1])
        elif self.kind == "int":
            ends = (int(self.low), int(self.high))
        return f"{self.key}={ends[0]}", f"{self.key}={ends[1]}"


def split_space(arguments: Sequence[str]) -> tuple[list[str], list[Parameter]]:
    """Fixed overrides, and what is searched.

    `key=log(a,b)` and `key=uniform(a,b)` are numbers between a and b, `key=int(a,b)` and `key=int(log(a,b))` whole
    ones; `key=choice(x,y)` or `key=x,y` one of several values, `key=range(a,b,step)` as Hydra reads it. Hydra's own
    forms (`interval(a,b)`, `tag(log,interval(a,b))`, `int(interval(a,b))`, `glob(*)`) mean the same as there.

    Raises:
        ConfigError: what cannot be read, an empty range, or nothing to search.

    Example:
        >>> fixed, space = split_space(["seed=1", "optimizer.base_lr=log(1e-4,1e-2)", "method=simclr,byol"])
        >>> fixed, [(parameter.name, parameter.kind, parameter.log) for parameter in space]
        (['seed=1'], [('optimizer.base_lr', 'float', True), ('method', 'choice', False)])
    """
    fixed: list[str] = []
    space: list[Parameter] = []
    for argument in arguments:
        short = _SHORT.fullmatch(argument)
        if short is not None:
            space.append(_numbers(argument, short))
            continue
        (override,) = parse_overrides([argument])
        if override.is_sweep_override():
            space.append(_parameter(argument, override))
        else:
            fixed.append(argument)
    if not space:
        raise ConfigError(
            "nothing to search. Type settings as key=log(a,b), key=uniform(a,b), key=int(a,b) or key=choice(x,y), e.g. "
            "'optimizer.base_lr=log(1e-4,1e-2)'"
        )
    names = [parameter.name for parameter in space]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise ConfigError(f"{repeated} is given twice. Type it once")
    return fixed, space


def _numbers(argument: str, found: re.Match[str]) -> Parameter:
    whole, log = found["kind"].startswith("int"), found["kind"].endswith("log")
    try:
        low, high = (int(found[name]) if whole else float(found[name]) for name in ("low", "high"))
    except ValueError as error:
        kind = "whole numbers" if whole else "numbers"
        raise ConfigError(f"{argument}: the ends must be {kind}, e.g. {found['key']}={found['kind']}(1,10)") from error
    return _checked(argument, Parameter(found["key"], "int" if whole else "float", low, high, log=log))


def _parameter(argument: str, override: Override) -> Parameter:
    value, key = override.value(), override.get_key_element()
    if isinstance(value, IntervalSweep):
        low, high = value.start, value.end
        if low is None or high is None:
            raise ConfigError(f"{argument}: an interval needs two ends, e.g. {key}=interval(0,1)")
        whole = isinstance(low, int) and isinstance(high, int) and "int(" in argument
        kind: Literal["int", "float"] = "int" if whole else "float"
        return _checked(argument, Parameter(key, kind, low, high, log="log" in value.tags))
    if isinstance(value, RangeSweep) and not value.shuffle:
        numbers = [float(text) for text in listed_values(override)]
        step = abs(float(value.step))
        whole = all(number.is_integer() for number in numbers) and step.is_integer()
        if len(numbers) > 1:
            return Parameter(key, "int" if whole else "float", min(numbers), max(numbers), step)
    return Parameter(key, "choice", choices=tuple(dict.fromkeys(listed_values(override))))


def _checked(argument: str, parameter: Parameter) -> Parameter:
    low, high = parameter.low, parameter.high
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f"{argument}: the first end must be below the second")
    if parameter.log and low <= 0:
        raise ConfigError(f"{argument}: a logarithm needs ends above 0")
    return parameter
