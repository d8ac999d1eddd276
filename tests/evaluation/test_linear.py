from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, log_loss
from sklearn.preprocessing import StandardScaler

from lgrep.errors import DataError
from lgrep.evaluation.average_precision import average_precision
from lgrep.evaluation.cost_path import COARSE_COSTS, CostPath, coarse_fine_search
from lgrep.evaluation.linear import (
    Scaler,
    fit_logistic,
    holdout_split,
    linear_probe,
    mean_per_class,
    measure,
    top1,
)
from lgrep.evaluation.linear_backends import Fits, ScikitLearn, UnsquaredPenalty, lbfgs_fits, newton_fits


def _problem(count: int, seed: int, classes: int = 6, dim: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    scale = torch.logspace(-1, 1, dim)
    return (centres[labels] + 1.3 * torch.randn(count, dim, generator=generator)) * scale + 3, labels


def _objective(weight: np.ndarray, bias: np.ndarray, x: np.ndarray, y: np.ndarray, c: float) -> float:
    logits = x @ weight.T + bias
    probability = np.exp(logits - logits.max(1, keepdims=True))
    probability /= probability.sum(1, keepdims=True)
    return log_loss(y, probability, labels=range(len(bias))) + (weight**2).sum() / (2 * c * len(y))


@pytest.mark.parametrize("c", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_same_optimum_as_scikit_learn(c: float, dtype: torch.dtype) -> None:
    x, y = _problem(400, 0)
    x_test, y_test = _problem(1000, 1)
    scaler = Scaler.fit(x.to(dtype))
    mine = fit_logistic(scaler(x.to(dtype)), y, c, 6)
    scaled = StandardScaler().fit(x.double().numpy())
    reference = LogisticRegression(C=c, tol=1e-8, max_iter=5000).fit(scaled.transform(x.double().numpy()), y.numpy())
    data = scaled.transform(x.double().numpy()), y.numpy(), c
    best = _objective(reference.coef_, reference.intercept_, *data)
    reached = _objective(mine.weight.double().numpy(), mine.bias.double().numpy(), *data)
    assert best * (1 - 1e-6) <= reached <= best * (1 + 1e-3)
    assert mine.objective == pytest.approx(reached, rel=1e-4)
    accuracy = reference.score(scaled.transform(x_test.double().numpy()), y_test.numpy())
    assert top1(mine.predict(scaler(x_test.to(dtype))), y_test) == pytest.approx(accuracy, abs=0.002)


@pytest.mark.parametrize(("fits", "grid"), [(newton_fits, (1e-3, 1e-2, 0.1, 1.0)), (lbfgs_fits, (1e-3, 1e-2))])
def test_probe_equals_a_grid_search_with_scikit_learn(fits: Fits, grid: tuple[float, ...]) -> None:
    parts = [_problem(count, seed) for count, seed in ((300, 2), (150, 3), (500, 4))]
    result = linear_probe(parts[0], parts[1], parts[2][0], 6, grid, fits=fits)
    (x, y), (x_val, y_val), (x_test, y_test) = ((p[0].double().numpy(), p[1].numpy()) for p in parts)
    scaled = StandardScaler().fit(x)
    accuracy = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for c in grid:
            model = LogisticRegression(C=c, tol=1e-6, max_iter=2000).fit(scaled.transform(x), y)
            accuracy[c] = balanced_accuracy_score(y_val, model.predict(scaled.transform(x_val)))
        both = StandardScaler().fit(np.concatenate([x, x_val]))
        final = LogisticRegression(C=result.c, tol=1e-6, max_iter=2000)
        final.fit(both.transform(np.concatenate([x, x_val])), np.concatenate([y, y_val]))
    assert accuracy[result.c] >= max(accuracy.values()) - 0.01
    for c in grid:
        assert result.validation[c] == pytest.approx(accuracy[c], abs=0.01)
    expected = final.score(both.transform(x_test), y_test)
    assert top1(result.predictions, parts[2][1]) == pytest.approx(expected, abs=0.002)


def test_warm_start_reaches_the_cold_optimum() -> None:
    x, y = _problem(300, 5)
    x = Scaler.fit(x)(x)
    cold = fit_logistic(x, y, 1.0, 6, tolerance=1e-6)
    warm = fit_logistic(x, y, 1.0, 6, start=fit_logistic(x, y, 0.1, 6), tolerance=1e-6)
    assert warm.objective == pytest.approx(cold.objective, rel=1e-5)


def test_mean_per_class_is_balanced_accuracy() -> None:
    labels, predictions = torch.tensor([0, 0, 0, 5, 5, 2]), torch.tensor([0, 0, 2, 5, 0, 2])
    expected = balanced_accuracy_score(labels.numpy(), predictions.numpy())
    assert mean_per_class(predictions, labels) == pytest.approx(expected)
    assert mean_per_class(torch.tensor([0, 0, 1, 5, 3, 2]), labels) == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)


def test_constant_features_are_harmless() -> None:
    x, y = _problem(200, 6)
    padded = torch.cat([x, torch.full((200, 2), 0.1)], 1)
    fitted = fit_logistic(Scaler.fit(padded)(padded), y, 0.1, 6)
    assert torch.isfinite(fitted.weight).all()
    assert torch.equal(
        fitted.predict(Scaler.fit(padded)(padded)), fit_logistic(Scaler.fit(x)(x), y, 0.1, 6).predict(Scaler.fit(x)(x))
    )


def _problems(kind: str) -> tuple[torch.Tensor, torch.Tensor, int]:
    """(features, labels, classes) that a probe may meet."""
    x, y = _problem(240, 8)
    if kind == "two classes":
        return x, y % 2, 2
    if kind == "class missing":
        return x[y != 2], y[y != 2], 6
    if kind == "one feature":
        return x[:, -1:], y, 6
    if kind == "fewer rows than features":
        return torch.cat([x, x[:, :15].square(), x[:, 5:].abs()], 1)[:40], y[:40], 6
    if kind == "unbalanced":
        keep = (y == 0) | (torch.arange(240) % 12 == 0)
        return x[keep], y[keep], 6
    if kind == "not centred, scales apart":
        return x * torch.logspace(-3, 3, 20) + 100, y, 6
    return x, y, 6


@pytest.mark.parametrize(
    "kind",
    [
        "two classes",
        "class missing",
        "one feature",
        "fewer rows than features",
        "unbalanced",
        "not centred, scales apart",
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_cost_of_a_path_reaches_scikit_learns_optimum(kind: str, dtype: torch.dtype) -> None:
    x, y, classes = _problems(kind)
    hard = kind.startswith("not centred")  # scikit-learn would need many thousand iterations
    x, limit = (x, 100) if hard else (Scaler.fit(x)(x), 500)
    path = CostPath(x.to(dtype), y, classes)
    wide, present = x.double(), torch.unique(y)
    for c in (1e-4, 1e-2, 1.0, 1e2):
        mine = path.fit(c)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reference = LogisticRegression(C=c, tol=1e-6, max_iter=limit).fit(wide.numpy(), y.numpy())
        weight, bias = torch.from_numpy(reference.coef_), torch.from_numpy(reference.intercept_)
        if len(present) == 2:  # scikit-learn's one vector is the difference of the two
            weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
        factor = 2 if len(present) == 2 else 1
        target = torch.searchsorted(present, y)
        reached, best = (
            torch.nn.functional.cross_entropy(wide @ w.T + b, target) + factor * w.square().sum() / (2 * c * len(y))
            for w, b in ((mine.weight[present].double(), mine.bias[present].double()), (weight, bias))
        )
        assert float(reached) <= float(best) * 1.001 + 1e-6
        assert mine.objective == pytest.approx(float(reached), rel=1e-3, abs=1e-6)
        if reference.n_iter_[0] < limit:
            assert (mine.predict(x.to(dtype)).numpy() == reference.predict(wide.numpy())).mean() >= 0.99


def test_costs_in_any_order_give_the_same_fits() -> None:
    x, y = _problem(300, 5)
    x = Scaler.fit(x)(x).double()
    costs = [1e-3, 1e-2, 0.1, 1.0, 10.0]
    up, mixed = CostPath(x, y, 6, tolerance=1e-8), CostPath(x, y, 6, tolerance=1e-8)
    ascending = {c: up.fit(c) for c in costs}
    for c in (10.0, 1e-3, 0.1, 1.0, 1e-2):
        torch.testing.assert_close(mixed.fit(c).weight, ascending[c].weight, rtol=1e-2, atol=1e-3)
    assert up.fit(0.1) is ascending[0.1]


def test_several_classes_per_picture_are_binary_problems() -> None:
    x, _ = _problem(200, 11)
    x = Scaler.fit(x)(x)
    labels = torch.stack([x[:, 0] > 0, x[:, 1] + x[:, 2] > 0.5, torch.zeros(200, dtype=torch.bool)], 1)
    labels[::17] ^= torch.tensor([True, True, False])
    mine = CostPath(x, labels, 3, tolerance=1e-6).fit(0.1)
    for k in range(2):
        reference = LogisticRegression(C=0.1, tol=1e-8, max_iter=5000).fit(x.numpy(), labels[:, k].numpy())
        np.testing.assert_allclose(mine.weight[k].numpy(), reference.coef_[0], atol=2e-3)
        assert float(mine.bias[k]) == pytest.approx(float(reference.intercept_[0]), abs=2e-3)
    assert mine.bias[2] == -torch.inf
    sklearn_fits = ScikitLearn(x, labels, 3, tolerance=1e-8).fit(0.1)
    torch.testing.assert_close(mine.scores(x)[:, :2], sklearn_fits.scores(x)[:, :2], atol=0.02, rtol=0)


def test_hopeless_inputs_end() -> None:
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    one_class = CostPath(x, torch.full((30,), 2), 4).fit(1.0)
    assert one_class.predict(x).tolist() == [2] * 30
    constant = CostPath(torch.full((30, 4), 7.0), torch.arange(30) % 3, 3).fit(1.0)
    assert torch.isfinite(constant.weight).all()
    separable = CostPath(torch.cat([x - 50, x + 50]), torch.arange(60) // 30, 2).fit(1e6)
    assert top1(separable.predict(torch.cat([x - 50, x + 50])), torch.arange(60) // 30) == 1.0
    huge = CostPath(x * 1e15, torch.arange(30) % 3, 3).fit(1.0)
    assert np.isfinite(huge.objective)
    half = CostPath(x.half(), torch.arange(30) % 3, 3).fit(1.0)
    assert half.weight.dtype == torch.float32


def test_unsquared_penalty_is_at_the_minimum_of_lgssls_objective() -> None:
    x, y = _problem(150, 9)
    x = Scaler.fit(x)(x).double()
    fitted = UnsquaredPenalty(x, y, 6).fit(10.0)
    weight, bias = fitted.weight.clone().requires_grad_(), fitted.bias.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(x @ weight.T + bias, y) + 1 / 10.0 * 0.5 * weight.norm()
    loss.backward()
    assert fitted.objective == pytest.approx(loss.item())
    assert weight.grad is not None and weight.grad.abs().max() < 1e-4
    # the strongest penalty leaves no weights: the objective is the entropy of a coin with six sides, or a little less
    assert UnsquaredPenalty(x, y, 6).fit(1e-6).objective <= np.log(6) + 1e-9


def test_fine_search_halves_around_the_best_coarse_cost() -> None:
    asked: list[float] = []

    def score(c: float) -> float:
        asked.append(c)
        return -abs(np.log10(c) - 1.3)

    found = coarse_fine_search(score)
    assert abs(np.log10(found.c) - 1.3) < 0.1
    assert asked[:7] == list(COARSE_COSTS) and len(asked) == len(set(asked)) <= 7 + 15
    fine = [np.log10(c) for c in asked[7:]]
    assert min(fine) >= -2 - 1e-9 and max(fine) <= 4 + 1e-9
    assert all(
        abs((value + 2) * 7 - round((value + 2) * 7)) < 1e-6 or abs(value * 7 - round(value * 7)) < 1e-6
        for value in fine
    )
    # everything equally good: the strongest penalty, then always the lower part
    assert coarse_fine_search(lambda c: 0.5).c == pytest.approx(1e-6)
    # at the edge the fine values are cut to the coarse range
    edge = coarse_fine_search(lambda c: c)
    assert edge.c == pytest.approx(1e6) and max(edge.values) <= 1e6 * (1 + 1e-9)


def test_average_precision_by_hand() -> None:
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5])
    relevant = torch.tensor([True, False, True, False, True])
    # precision 1 up to recall 1/3 (4 points), 2/3 up to 2/3 (3 points), 3/5 beyond (4 points)
    assert average_precision(scores, relevant) == pytest.approx((4 + 3 * 2 / 3 + 4 * 3 / 5) / 11)
    ties = torch.zeros(10)
    assert average_precision(ties, torch.arange(10) < 4) == pytest.approx(0.4)
    exact = torch.arange(10.0, 0, -1)
    assert average_precision(exact, torch.ones(10, dtype=torch.bool)) == 1.0
    two = torch.stack([scores, scores], 1), torch.stack([relevant, ~relevant], 1)
    second = (6 * 1 / 2 + 5 * 1 / 2) / 11
    assert measure("map11", *two) == pytest.approx((average_precision(scores, relevant) + second) / 2)
    with pytest.raises(DataError, match="relevant"):
        average_precision(scores, torch.zeros(5, dtype=torch.bool))


def test_roc_auc_of_two_classes() -> None:
    scores = torch.tensor([[0.0, 1.0], [0.0, -1.0], [0.0, 0.5], [0.0, 2.0]])
    assert measure("roc_auc", scores, torch.tensor([1, 0, 0, 1])) == 1.0
    assert measure("roc_auc", scores, torch.tensor([0, 0, 1, 1])) == pytest.approx(0.75)


def test_held_out_rows_are_a_share_of_every_class() -> None:
    labels = torch.tensor([0] * 50 + [1] * 10 + [2])
    kept, out = holdout_split(labels, 0.2, seed=3)
    assert sorted(kept.tolist() + out.tolist()) == list(range(61))
    assert torch.bincount(labels[out], minlength=3).tolist() == [10, 2, 0]
    torch.manual_seed(1)
    assert torch.equal(out, holdout_split(labels, 0.2, seed=3)[1])
    assert not torch.equal(out, holdout_split(labels, 0.2, seed=4)[1])
    assert len(holdout_split(torch.ones(30, 4, dtype=torch.bool), 0.2, 0)[1]) == 6


def test_bad_input_is_named() -> None:
    x, y = _problem(20, 7)
    with pytest.raises(DataError, match="labels must lie"):
        fit_logistic(x, y + 6, 1.0, 6)
    x[3, 1] = torch.nan
    with pytest.raises(DataError, match=r"rows \[3\]"):
        fit_logistic(x, y, 1.0, 6)
