"""The path of lgssl's penalty against minimising it directly, and rows of one design against a design of their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_tasks import clusters, feature_task
from scipy.optimize import minimize

from lgrep.errors import ConfigError
from lgrep.evaluation.cost_path import COARSE_COSTS, CostPath, LinearClassifier, coarse_fine_search
from lgrep.evaluation.evaluators.linear import LinearProbe
from lgrep.evaluation.linear import top1
from lgrep.evaluation.linear_backends import UnsquaredPenalty
from lgrep.evaluation.logistic import Design
from lgrep.evaluation.unsquared import UnsquaredPath


def improved(fitted: LinearClassifier, x: torch.Tensor, y: torch.Tensor, c: float) -> tuple[float, float]:
    """(mean cross-entropy + |W| / (2 C) of a fit, the smallest that scipy finds from there in float64)."""
    classes, dim = torch.unique(y), x.shape[1]

    def value(flat: np.ndarray) -> tuple[float, np.ndarray]:
        both = torch.from_numpy(flat).view(len(classes), dim + 1).requires_grad_()
        logits = x.double() @ both[:, :dim].T + both[:, dim]
        loss = torch.nn.functional.cross_entropy(logits, torch.searchsorted(classes, y))
        loss = loss + both[:, :dim].norm() / (2 * c)
        (gradient,) = torch.autograd.grad(loss, both)
        return loss.item(), gradient.flatten().numpy()

    start = torch.cat([fitted.weight, fitted.bias[:, None]], 1)[classes].double().flatten().numpy()
    found = minimize(value, start, jac=True, method="L-BFGS-B", options={"maxiter": 300, "ftol": 0, "gtol": 1e-9})
    return value(start)[0], found.fun


def problem(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = clusters(5, 24, 12, 1.5, 0)
    x = x * torch.logspace(-1, 1, 12) + 3
    if kind == "two classes":
        return x, y % 2
    if kind == "a class missing":
        return x[y != 2], y[y != 2]
    return (torch.cat([x, x.square(), x.abs()], 1)[:30], y[:30]) if kind == "fewer rows than features" else (x, y)


@pytest.mark.parametrize("kind", ["plain", "two classes", "a class missing", "fewer rows than features"])
def test_the_path_reaches_the_minimum(kind: str) -> None:
    x, y = problem(kind)
    path = UnsquaredPath(x, y, 5, 1e-6)
    for c in (100.0, 1e-3, 3.0, 0.05, 1e4):
        fitted = path.fit(c)
        reached, best = improved(fitted, x, y, c)
        assert reached <= best * 1.001 + 1e-5, c
        assert fitted.objective == pytest.approx(reached, rel=1e-3, abs=1e-6)
    assert not path.fit(1e-3).weight.any()  # the penalty has it all
    if kind == "a class missing":
        assert not (path.fit(100.0).predict(x) == 2).any()


def test_accuracies_are_those_of_the_published_loop() -> None:
    (x, y), (held, truth) = clusters(6, 40, 16, 2.5, 0), clusters(6, 200, 16, 2.5, 1)
    path, loop = UnsquaredPath(x, y, 6, 1e-6), UnsquaredPenalty(x, y, 6)
    for c in (30.0, 3.0):
        assert top1(path.fit(c).predict(held), truth) == pytest.approx(top1(loop.fit(c).predict(held), truth), abs=2e-3)
        assert path.fit(c).objective <= loop.fit(c).objective * 1.001
    found = coarse_fine_search(lambda c: top1(path.fit(c).predict(held), truth))
    assert 0.01 < found.c < 1e4 and len(path.known) < 3 * len(found.values)  # a fit or two for each cost


def test_features_that_tell_nothing_give_the_most_frequent_class() -> None:
    labels = torch.tensor([0, 1, 1, 2, 1])
    path = UnsquaredPath(torch.ones(5, 3), labels, 4, 1e-6)
    assert all(path.fit(c).predict(torch.randn(4, 3)).tolist() == [1] * 4 for c in COARSE_COSTS)
    with pytest.raises(ConfigError, match="reference_behaviour=false"):
        UnsquaredPath(torch.ones(5, 3), torch.ones(5, 2, dtype=torch.bool), 2, 1e-6)


def test_the_solver_is_in_the_record() -> None:
    task = feature_task({"train": clusters(3, 20), "test": clusters(3, 10, seed=1)})
    settings = [
        next(iter(LinearProbe(reference_behaviour=True, solver=solver, max_iter=20)(task))).settings["solver"]
        for solver in ("newton", "lbfgs")
    ]
    assert settings == ["newton", "lbfgs from zero"]


@pytest.mark.parametrize("dim", [8, 200])
def test_rows_of_a_design_have_the_minimum_of_their_own(dim: int) -> None:
    x, y = clusters(4, 30, dim, 2.5, 0)
    rows = torch.arange(0, 120, 3)
    x[rows, 0] += 5.0  # their mean and axes are others than those of all rows
    for c in (0.01, 1.0, 1e3):
        own = CostPath(x[rows], y[rows], 4, 1e-7).fit(c)
        shared = CostPath(x[rows], y[rows], 4, 1e-7, design=Design(x).subset(rows)).fit(c)
        loss = torch.nn.functional.cross_entropy(shared.scores(x[rows]), y[rows])
        reached = float(loss + shared.weight.square().sum() / (2 * c * len(rows)))
        assert reached == pytest.approx(own.objective, rel=1e-3, abs=1e-6)
        assert shared.objective == pytest.approx(own.objective, rel=1e-4, abs=1e-6)
