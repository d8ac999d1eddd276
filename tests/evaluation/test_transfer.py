"""The transfer suite's pieces against scikit-learn and hand computation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from made_tasks import clusters, feature_task
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import cross_entropy

from lgrep.errors import ConfigError
from lgrep.evaluation import transfer_fits
from lgrep.evaluation.evaluators.transfer import Transfer
from lgrep.evaluation.log_odds import log_odds, suite_scores
from lgrep.evaluation.transfer_fits import fit_sgd, hold_out, preprocess


def task(classes: int = 5, **about):
    return feature_task(
        {
            "train": clusters(classes, 12, 8, 1.5, 0),
            "validation": clusters(classes, 4, 8, 1.5, 1),
            "test": clusters(classes, 20, 8, 1.5, 2),
        },
        **about,
    )


def test_log_odds_by_hand() -> None:
    assert log_odds(0.8, 1000) == pytest.approx(math.log(4))
    assert log_odds(0.0, 50) == pytest.approx(-log_odds(1.0, 50)) == pytest.approx(-math.log(99))


def test_a_suite_is_averaged_without_the_set_trained_on() -> None:
    accuracy = {"imagenet": 0.99, "dtd": 0.5, "pets": 0.8, "cog_l2": 0.2, "cog_l1": 0.4}
    records = [
        {"model": {"name": "a"}, "dataset": name, "evaluator": "transfer",
         "values": {"transfer": p, "transfer_log_odds": math.log(p / (1 - p))}}
        for name, p in accuracy.items()
    ]  # fmt: skip
    records += [{"model": {"name": "a"}, "dataset": "dtd", "evaluator": "knn", "values": {"knn": 0.1}}]
    score = suite_scores(records)["a"]
    assert score.mean == pytest.approx((0.5 + 0.8 + 0.2 + 0.4) / 4)
    assert score.mean_log_odds == pytest.approx((math.log(4) + math.log(0.25) + math.log(0.4 / 0.6)) / 4)
    assert score.datasets == ("cog_l1", "cog_l2", "dtd", "pets")
    assert score.cog == {"cog_l1": 0.4, "cog_l2": 0.2}


def test_every_class_gives_its_share_and_keeps_one() -> None:
    labels = torch.tensor([0] * 10 + [1] * 3 + [2] + [5] * 2)[torch.randperm(16)]
    kept, held = hold_out(labels, 0.2, seed=4)
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(16))
    assert torch.bincount(labels[held], minlength=6).tolist() == [2, 1, 0, 0, 0, 1]
    assert torch.equal(held, hold_out(labels, 0.2, seed=4)[1])
    assert any(not torch.equal(held, hold_out(labels, 0.2, seed)[1]) for seed in range(5))


def test_features_are_scaled_by_the_fitted_rows() -> None:
    train, other = torch.randn(20, 3) * 5 + 2, torch.randn(4, 3)
    train[:, 2] = 7.0
    fitted, asked = preprocess(train, other, "standard")
    np.testing.assert_allclose(fitted[:, :2].mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(
        asked[:, :2], (other[:, :2] - train[:, :2].mean(0)) / train[:, :2].std(0, correction=0), rtol=1e-4
    )
    assert torch.isfinite(asked).all()
    assert preprocess(train, other, "l2")[1].norm(dim=1) == pytest.approx(torch.ones(4))


def test_the_refit_is_scikit_learns_at_the_chosen_c() -> None:
    made = task()
    (score,) = Transfer(trials=4, seeds=2)(made)
    train = [torch.cat(parts).numpy() for parts in zip(made.split("train"), made.split("validation"), strict=True)]
    test, labels = made.split("test")
    expected = []
    for run in score.settings["runs"]:
        model = LogisticRegression(C=run["chosen"]["c"], max_iter=5000, tol=1e-6).fit(train[0], train[1])
        found = score.predictions[f"transfer_seed{run['seed']}"].numpy()
        assert (found != model.predict(test.numpy())).mean() <= 0.02
        expected.append((found == labels.numpy()).mean())
    assert score.values["transfer"] == pytest.approx(np.mean(expected))
    assert score.values["transfer_std"] == pytest.approx(np.std(expected))
    assert score.values["transfer_log_odds"] == pytest.approx(math.log(np.mean(expected) / (1 - np.mean(expected))))
    (again,) = Transfer(trials=4, seeds=2)(made)
    assert again.values == score.values and again.settings == score.settings
    assert all(1e-5 <= run["chosen"]["c"] <= 1e6 for run in score.settings["runs"])


def test_sgd_follows_the_published_schedule() -> None:
    features, labels = clusters(3, 10, 4)
    rates = {0: 0.5, 1: 0.5, 2: 0.25 * (1 + math.cos(math.pi / 4)), 3: 0.25}
    layer = fit_sgd((features, labels), 3, 0.5, 1e-3, epochs=4, batch_size=30, seed=2)
    generator = torch.Generator().manual_seed(2)
    weight = torch.empty(3, 4).uniform_(-0.5, 0.5, generator=generator).requires_grad_()
    bias = torch.empty(3).uniform_(-0.5, 0.5, generator=generator).requires_grad_()
    momentum = [torch.zeros(3, 4), torch.zeros(3)]
    for epoch in range(4):  # one batch per epoch, so the order does not matter
        gradients = torch.autograd.grad(cross_entropy(features @ weight.T + bias, labels), (weight, bias))
        with torch.no_grad():
            for number, parameter in enumerate((weight, bias)):
                momentum[number] = 0.9 * momentum[number] + gradients[number] + 1e-3 * parameter
                parameter -= rates[epoch] * momentum[number]
    torch.testing.assert_close(layer.weight, weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.bias, bias, rtol=1e-4, atol=1e-5)


def test_sgd_is_searched_and_survives_divergence() -> None:
    made = task(metric="mean_per_class")
    (score,) = Transfer(solver="sgd", norm="none", trials=3, seeds=1, epochs=3, lr=(1e5, 1e6))(made)
    assert set(score.settings["runs"][0]["chosen"]) == {"lr", "weight_decay"}
    assert 0 <= score.values["transfer"] <= 1 and score.headline[0] == "transfer_per_class"


def test_what_cannot_be_measured_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = (torch.randn(3, 4), torch.arange(3))
    assert "two training pictures" in (Transfer().refusal(feature_task({"train": alone, "test": alone})) or "")
    assert "'train'" in (Transfer().refusal(feature_task({"test": alone})) or "")
    monkeypatch.setattr(transfer_fits, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="pip install"):
        Transfer()
