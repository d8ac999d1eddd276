"""What a search space on the command line means."""

from __future__ import annotations

from typing import Any

import pytest

from lgrep.errors import ConfigError
from lgrep.sweeps.space import Parameter, split_space


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("a.b=log(1e-4,1e-2)", Parameter("a.b", "float", 1e-4, 1e-2, log=True)),
        ("a.b=tag(log,interval(1e-4,1e-2))", Parameter("a.b", "float", 1e-4, 1e-2, log=True)),
        ("a=uniform(-1, 2.5)", Parameter("a", "float", -1, 2.5)),
        ("a=interval(0,1)", Parameter("a", "float", 0, 1)),
        ("a=int(1,8)", Parameter("a", "int", 1, 8)),
        ("a=int(interval(1,8))", Parameter("a", "int", 1, 8)),
        ("a=int(log(8,512))", Parameter("a", "int", 8, 512, log=True)),
        ("a=range(2,9,2)", Parameter("a", "int", 2, 8, 2)),
        ("a=range(0.5,2,step=0.5)", Parameter("a", "float", 0.5, 1.5, 0.5)),
        ("a=choice(0.05,0.1)", Parameter("a", "choice", choices=("0.05", "0.1"))),
        ("a=[8,4],[16,8]", Parameter("a", "choice", choices=("[8,4]", "[16,8]"))),
        ("+a=x,y,x", Parameter("+a", "choice", choices=("x", "y"))),
    ],
)
def test_forms(typed: str, expected: Parameter) -> None:
    fixed, space = split_space(["seed=3", typed, "+experiment=e", "b=[1,2]"])
    assert fixed == ["seed=3", "+experiment=e", "b=[1,2]"]
    assert space == [expected]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["seed=1"], "nothing to search"),
        (["a=log(0,1)"], "above 0"),
        (["a=log(1,1)"], "first end must be below"),
        (["a=uniform(1,nan)"], "first end must be below"),
        (["a=int(1,2.5)"], "whole numbers"),
        (["a=log(x,1)"], "must be numbers"),
        (["a=1,2", "+a=3,4"], "a is given twice"),
        (["a=[1,2"], "cannot read"),
    ],
)
def test_what_is_wrong_is_said(typed: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        split_space(typed)


def test_values_are_those_of_the_space() -> None:
    optuna: Any = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    _, space = split_space(["a=log(1e-4,1e-2)", "b=int(1,3)", "c=range(2,9,2)", "+d=x,y", "e=range(0.5,2,step=0.5)"])
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen: dict[str, set[str]] = {}
    for _ in range(60):
        trial = study.ask()
        for parameter in space:
            key, _, value = parameter.suggest(trial).partition("=")
            seen.setdefault(key, set()).add(value)
    assert all(1e-4 <= float(value) <= 1e-2 for value in seen["a"])
    assert 15 < sum(float(value) < 1e-3 for value in seen["a"]) < 45
    assert (seen["b"], seen["c"], seen["+d"]) == ({"1", "2", "3"}, {"2", "4", "6", "8"}, {"x", "y"})
    assert {float(value) for value in seen["e"]} == {0.5, 1.0, 1.5}
    assert [parameter.corners() for parameter in space[1:3]] == [("b=1", "b=3"), ("c=2", "c=8")]
