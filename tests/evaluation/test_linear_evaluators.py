from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_tasks import MadeSet, clusters, feature_task
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from lgrep.checkpoints.transform import EvaluationTransform
from lgrep.errors import ConfigError
from lgrep.evaluation.average_precision import mean_average_precision
from lgrep.evaluation.cache import FeatureCache
from lgrep.evaluation.contract import Part, Score, Subject, Task
from lgrep.evaluation.evaluators.knn import KNN
from lgrep.evaluation.evaluators.linear import LinearProbe
from lgrep.evaluation.evaluators.linear_sgd import LinearSGD
from lgrep.evaluation.evaluators.linear_transfer import WEIGHT_DECAYS, LinearTransfer
from lgrep.evaluation.knn import knn_predict
from lgrep.evaluation.tasks import Resources, make_task

Splits = dict[str, tuple[Tensor, Tensor]]


def _splits(spread: float = 2.0, validation: bool = True) -> Splits:
    parts = {"train": clusters(5, 30, spread=spread, seed=1), "test": clusters(5, 40, spread=spread, seed=2)}
    return parts | {"validation": clusters(5, 12, spread=spread, seed=3)} if validation else parts


def _one(evaluator: Any, task: Task) -> Score:
    assert evaluator.refusal(task) is None
    (score,) = evaluator(task)
    return score


def test_linear_is_the_refit_of_the_chosen_cost() -> None:
    splits = _splits()
    score = _one(LinearProbe(select_by="top1"), feature_task(splits))
    x, y = (torch.cat([splits["train"][i], splits["validation"][i]]).numpy() for i in (0, 1))
    scaler = StandardScaler().fit(x)
    model = LogisticRegression(C=score.settings["c"], tol=1e-8, max_iter=5000).fit(scaler.transform(x), y)
    predicted = model.predict(scaler.transform(splits["test"][0].numpy()))
    assert (predicted == score.predictions["linear"].numpy()).mean() >= 0.995
    assert score.values["linear_per_class"] == pytest.approx(
        balanced_accuracy_score(splits["test"][1].numpy(), score.predictions["linear"].numpy())
    )
    chosen = score.settings["validation"]
    assert chosen[f"{score.settings['c']:.6g}"] == max(chosen.values())
    assert score.settings["train"] == 150 and score.settings["validation_pictures"] == 60


def test_backends_and_solvers_agree() -> None:
    task = feature_task(_splits(spread=1.5))
    evaluators = (
        LinearProbe(costs=(1e-2, 1.0)),
        LinearProbe(costs=(1e-2, 1.0), solver="lbfgs"),
        LinearProbe(costs=(1e-2, 1.0), backend="sklearn"),
        LinearProbe(costs=(10.0, 100.0), reference_behaviour=True),
    )
    values = [_one(evaluator, task).values["linear"] for evaluator in evaluators]
    assert max(values) - min(values) <= 0.03 and min(values) > 0.5


def test_part_of_train_validates_where_none_was_published() -> None:
    splits = _splits(validation=False)
    first, again = (_one(LinearProbe(), feature_task(splits, seed=seed)) for seed in (0, 0))
    other = _one(LinearProbe(), feature_task(splits, seed=1))
    assert first.settings["validation_pictures"] == 30 and first.settings["train"] == 120
    assert first.settings == again.settings
    assert first.settings["validation"] != other.settings["validation"]
    assert "seed 0" in first.settings["validation_from"]


def test_pictures_without_a_label_do_not_count() -> None:
    splits = _splits()
    expected = _one(LinearProbe(), feature_task(splits)).values
    padded = {
        part: (torch.cat([x, torch.full((7, 16), 1e3)]), torch.cat([y, torch.full((7,), -1)]))
        for part, (x, y) in splits.items()
    }
    assert _one(LinearProbe(), feature_task(padded)).values == expected
    assert _one(KNN(), feature_task(padded)).values == _one(KNN(), feature_task(splits)).values


def test_several_labels_per_picture_are_scored_by_average_precision() -> None:
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(12, 4, generator=generator)

    def part(count: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(count, 12, generator=generator)
        return x, (x @ true + torch.randn(count, 4, generator=generator)) > 1.5

    task = feature_task({"train": part(300), "validation": part(150), "test": part(200)}, metric="map11")
    for evaluator in (LinearTransfer(preprocessing="model"), LinearProbe(select_by="mean_per_class", solver="lbfgs")):
        score = _one(evaluator, task)
        name = f"{evaluator.name}_map11"
        assert score.headline == (name,) and set(score.values) == {name}
        x, labels = task.split("test")
        perfect = mean_average_precision(x @ true, labels)
        assert perfect - 0.08 < score.values[name] <= 1
    assert "several labels" in (KNN().refusal(task) or "")
    assert "several labels" in (LinearSGD().refusal(task) or "")
    assert "several labels" in (LinearProbe(reference_behaviour=True).refusal(task) or "")


def test_metric_of_two_classes_is_roc_auc() -> None:
    score = _one(
        LinearProbe(),
        feature_task(
            {part: clusters(2, 40, spread=3.0, seed=i) for i, part in enumerate(("train", "test"))}, metric="roc_auc"
        ),
    )
    assert score.headline == ("linear_roc_auc",) and 0.5 < score.values["linear_roc_auc"] <= 1


def test_transfer_has_synclrs_costs_and_preprocessing() -> None:
    assert len(WEIGHT_DECAYS) == 45
    assert WEIGHT_DECAYS[0] == pytest.approx(1e-6) and WEIGHT_DECAYS[-1] == pytest.approx(1e5)
    task, asked = _picture_task(), []

    def features_with(transform: EvaluationTransform) -> Any:
        asked.append(transform)
        return task.features_of

    score = _one(LinearTransfer(), dataclasses.replace(task, features_with=features_with))
    assert asked[0].interpolation == "bicubic" and asked[0].mean[0] == pytest.approx(0.48145466)
    assert len(score.settings["validation"]) == 45
    assert score.settings["weight_decay"] == pytest.approx(1 / score.settings["c"])
    # without the cache it passes the pictures through the encoder itself
    assert _one(LinearTransfer(), task).values.keys() == score.values.keys()


def test_a_refused_task_says_why() -> None:
    train_only = feature_task({"train": clusters(3, 5)})
    assert "'test'" in (LinearProbe().refusal(train_only) or "")
    unknown = feature_task({"train": clusters(3, 5), "test": (torch.zeros(4, 16), torch.full((4,), -1))})
    for evaluator in (LinearProbe(), LinearTransfer(), LinearSGD(), KNN()):
        assert "no labels" in (evaluator.refusal(unknown) or "")
    with pytest.raises(ConfigError, match="backend=torch"):
        LinearProbe(reference_behaviour=True, backend="sklearn")


def test_knn_reports_the_grid_and_keeps_its_headline() -> None:
    splits = _splits()
    (gallery, labels), (queries, wanted) = splits["train"], splits["test"]
    score = _one(KNN(k=20, k_grid=(1, 5, 20, 500), temperature=0.1), feature_task(splits))
    assert score.headline == ("knn",)
    for k in (1, 5, 20):
        plain = knn_predict(gallery, labels, queries, k)
        weighted = knn_predict(gallery, labels, queries, k, temperature=0.1)
        assert score.values[f"knn_k{k}"] == pytest.approx(float((plain == wanted).double().mean()))
        assert score.values[f"knn_weighted_k{k}"] == pytest.approx(float((weighted == wanted).double().mean()))
    assert score.values["knn"] == score.values["knn_k20"] and "knn_k500" not in score.values
    few = {"train": clusters(2, 3), "test": clusters(2, 5, seed=1)}
    assert _one(KNN(), feature_task(few)).settings["k"] == 6


class _Mean(nn.Module):
    """Mean colour and its square: all that tells the made pictures apart."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, pictures: Tensor) -> Tensor:
        colour = self.norm(pictures).mean((2, 3))
        return torch.cat([colour, colour.square()], 1)


def _pictures(count: int, seed: int) -> tuple[list[Image.Image], Tensor]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    base = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200]])[labels]
    pixels = np.clip(base[:, None, None] + rng.normal(0, 60, (count, 20, 24, 3)), 0, 255).astype(np.uint8)
    return [Image.fromarray(picture) for picture in pixels], torch.from_numpy(labels)


def _picture_task(encoder: nn.Module | None = None) -> Task:
    parts = {part: Part(*_pictures(count, seed)) for part, count, seed in (("train", 60, 0), ("test", 45, 1))}  # type: ignore[arg-type]
    encoder = (encoder or _Mean()).eval()
    transform = EvaluationTransform(16)

    def features_of(part: str) -> Tensor:
        with torch.no_grad():
            features: Tensor = encoder(torch.stack([transform(picture) for picture in parts[part].pictures]))  # type: ignore[attr-defined]
        return features

    return Task(Subject("mean", encoder, transform, "0" * 16), MadeSet(parts, num_classes=3), features_of)


def test_sgd_learns_and_leaves_everything_as_it_was() -> None:
    task = _picture_task()
    before = {key: value.clone() for key, value in task.subject.encoder.state_dict().items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    evaluator = LinearSGD(base_lrs=(0.01, 1.0), epochs=6, batch_size=16, eval_every=2)
    score, again = _one(evaluator, task), _one(evaluator, task)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in task.subject.encoder.state_dict().items())
    assert score.values == again.values and score.settings == again.settings
    assert score.headline == ("linear_sgd", "linear_sgd_bn")
    for name in score.headline:
        assert 0.7 < score.values[name] <= score.values[f"{name}_best_on_test"]
        assert score.settings["chosen"][name]["epoch"] in (2, 4, 6)
    other_seed = _one(evaluator, dataclasses.replace(task, seed=5))
    assert other_seed.settings["chosen"] != score.settings["chosen"] or other_seed.values != score.values


def test_sgd_reports_only_the_published_number_without_validation() -> None:
    score = _one(LinearSGD(base_lrs=(0.5,), epochs=2, holdout=0.0, batch_norm="with", augment=False), _picture_task())
    assert score.headline == ("linear_sgd_bn_best_on_test",) and "linear_sgd_bn" not in score.values
    assert score.settings["train"] == 60 and score.settings["batch_size"] == 6


def test_repeated_passes_encode_only_so_often() -> None:
    encoder, seen = _Mean(), []
    encoder.register_forward_hook(lambda *_: seen.append(1))
    task = dataclasses.replace(
        _picture_task(encoder), features_of=lambda part: torch.zeros(60 if part == "train" else 45, 6)
    )
    seen.clear()
    _one(LinearSGD(base_lrs=(0.1,), epochs=6, passes=2), task)
    assert len(seen) == 2


def test_repeated_passes_are_kept_and_told_apart(tmp_path: Path) -> None:
    made, seen = _picture_task(), []
    made.subject.encoder.register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    resources = Resources(cache=FeatureCache(tmp_path))
    task = make_task(made.subject, made.dataset, resources)
    evaluator = LinearSGD(base_lrs=(0.5,), epochs=4, passes=2)
    first = _one(evaluator, task)
    assert sum(seen) == 54 * 2 + 60 + 45  # two passes over what trains, one over train and test
    seen.clear()
    again = _one(evaluator, make_task(made.subject, made.dataset, resources))
    assert again.values == first.values and max(seen) == 2  # a look at two pictures of each entry
    seen.clear()
    other = _one(evaluator, make_task(made.subject, made.dataset, resources, seed=1))
    assert sum(size for size in seen if size > 2) == 54 * 2 and other.settings["augmented_passes"] == 2


def test_small_sets_repeat_a_few_passes() -> None:
    assert LinearSGD()._length(9_999) == (30, 5) and LinearSGD()._length(10_000) == (90, 90)
    assert LinearSGD(epochs=90, passes=90)._length(100) == (90, 90) and LinearSGD(epochs=3)._length(100) == (3, 3)
