from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, log_loss
from sklearn.preprocessing import StandardScaler

from lgrep.errors import DataError
from lgrep.evaluation.linear import Scaler, fit_logistic, linear_probe, mean_per_class, top1


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


def test_probe_equals_a_grid_search_with_scikit_learn() -> None:
    parts = [_problem(count, seed) for count, seed in ((300, 2), (150, 3), (500, 4))]
    grid = (1e-3, 1e-2, 0.1, 1.0)
    result = linear_probe(parts[0], parts[1], parts[2][0], 6, grid)
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


def test_bad_input_is_named() -> None:
    x, y = _problem(20, 7)
    with pytest.raises(DataError, match="labels must lie"):
        fit_logistic(x, y + 6, 1.0, 6)
    x[3, 1] = torch.nan
    with pytest.raises(DataError, match=r"rows \[3\]"):
        fit_logistic(x, y, 1.0, 6)
