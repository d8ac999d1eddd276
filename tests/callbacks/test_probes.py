"""What probes and monitors log, and that they leave training alone."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from callbacks.tiny import Fit, ListLogger, TinyBackbone, TinyData, TinyMethod, class_pictures
from lgrep.callbacks import CollapseMonitor, OnlineKNN, OnlineLinearProbe, RunPlots, Throughput
from lgrep.callbacks.features import embed, frozen
from lgrep.data.batch import Batch


def logger_of(trainer: pl.Trainer) -> ListLogger:
    logger = trainer.loggers[0]
    assert isinstance(logger, ListLogger)
    return logger


def probes() -> list[pl.Callback]:
    return [OnlineKNN(every_n_steps=3, k=5), OnlineLinearProbe(every_n_steps=4), CollapseMonitor(every_n_steps=2)]


def test_knn_equals_sklearn(fit: Fit) -> None:
    sklearn_neighbors = pytest.importorskip("sklearn.neighbors")
    data, module = TinyData(), TinyMethod()
    trainer = fit([OnlineKNN(every_n_steps=4, k=1)], steps=10, data=data, module=module)
    column = logger_of(trainer).column("probe/knn_top1")
    assert list(column) == [3, 7, 9]
    assert data.probe is not None
    module.eval()
    with torch.no_grad():
        gallery, queries = (module.backbone(data.normalise(part)) for part in (data.probe.gallery, data.probe.queries))
    oracle = sklearn_neighbors.KNeighborsClassifier(1, metric="cosine").fit(gallery, data.probe.gallery_labels)
    assert column[9] == pytest.approx(oracle.score(queries, data.probe.query_labels))


def test_values_reach_loggers_between_their_own_steps(fit: Fit) -> None:
    trainer = fit([OnlineKNN(every_n_steps=3)], steps=8, log_every_n_steps=4)
    assert list(logger_of(trainer).column("probe/knn_top1")) == [2, 5, 7]
    assert list(logger_of(trainer).column("train/loss")) == [3, 7]


def test_accumulation_counts_optimiser_steps(fit: Fit) -> None:
    trainer = fit([OnlineKNN(every_n_steps=2)], steps=5, accumulate_grad_batches=3)
    rows = [step for step, row in logger_of(trainer).rows if "probe/knn_top1" in row]
    assert rows == [1, 3, 4]


def test_training_is_left_alone(fit: Fit) -> None:
    alone, watched = TinyMethod(), TinyMethod()
    fit([], steps=8, module=alone)
    alone_state = torch.get_rng_state()
    fit(probes(), steps=8, module=watched)
    assert torch.equal(alone_state, torch.get_rng_state())
    for (name, expected), value in zip(alone.state_dict().items(), watched.state_dict().values(), strict=True):
        assert torch.equal(expected, value), name


def test_frozen_restores_modes_and_random_state() -> None:
    backbone = TinyBackbone().train()
    backbone.norm.eval()
    state, statistics = torch.get_rng_state(), backbone.norm.running_mean.clone()  # type: ignore[union-attr]
    pictures = class_pictures(torch.zeros(5, dtype=torch.long), 0)
    features = embed(backbone, pictures, lambda x: x.float() / 255, torch.device("cpu"), batch_size=2)
    assert backbone.training and backbone.dropout.training and not backbone.norm.training
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(statistics, backbone.norm.running_mean)  # type: ignore[arg-type]
    assert not features.requires_grad and torch.is_grad_enabled()
    torch.testing.assert_close(features, backbone.eval()(pictures.float() / 255).detach())
    with pytest.raises(RuntimeError), frozen(backbone.train(), torch.device("cpu")):
        raise RuntimeError
    assert backbone.training


def test_resumed_run_logs_the_same(fit: Fit, tmp_path: Path) -> None:
    whole_probe, resumed_probe = probes(), probes()
    whole = fit(whole_probe, steps=10)
    part = fit(probes(), steps=10, limit_train_batches=5, max_epochs=1)
    part.save_checkpoint(tmp_path / "part.ckpt")
    torch.load(tmp_path / "part.ckpt", weights_only=True)
    rest = fit(resumed_probe, steps=10, checkpoint=tmp_path / "part.ckpt")
    for name in (
        "probe/knn_top1",
        "probe/linear_top1",
        "collapse/features_rankme",
        "collapse/embeddings_cosine_random",
    ):
        expected = {step: value for step, value in logger_of(whole).column(name).items() if step >= 5}
        assert expected and logger_of(rest).column(name) == expected, name
    for key, value in whole_probe[1].state_dict().items():
        other = resumed_probe[1].state_dict()[key]
        assert torch.equal(value, other) if isinstance(value, Tensor) else str(value) == str(other), key


def test_collapse_metrics_of_a_batch(fit: Fit) -> None:
    trainer = fit([CollapseMonitor(every_n_steps=1)], steps=1)
    row = {name: value for _, values in logger_of(trainer).rows for name, value in values.items()}
    assert row["collapse/features_std_isotropic"] == pytest.approx(6**-0.5)
    assert row["collapse/embeddings_std_isotropic"] == pytest.approx(0.5)
    assert 1 <= row["collapse/features_rankme"] <= 6
    assert -1 <= row["collapse/embeddings_cosine_random"] <= 1


class ConstantMethod(TinyMethod):
    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        output = super().training_step(batch, batch_idx)
        return {**output, "embeddings": torch.ones_like(output["embeddings"])}


def test_collapse_warns_once_even_over_a_resume(fit: Fit, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="collapse at step 2: the embeddings of different pictures") as caught:
        part = fit([CollapseMonitor(2)], module=ConstantMethod(), steps=10, limit_train_batches=5, max_epochs=1)
    assert sum("collapse at step" in str(warning.message) for warning in caught) == 1
    part.save_checkpoint(tmp_path / "part.ckpt")
    with warnings.catch_warnings(record=True) as later:
        warnings.simplefilter("always")
        fit([CollapseMonitor(2)], module=ConstantMethod(), checkpoint=tmp_path / "part.ckpt")
    assert not [warning for warning in later if "collapse at step" in str(warning.message)]


def test_healthy_features_do_not_warn(fit: Fit) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit([CollapseMonitor(1)], steps=3)
    assert not [warning for warning in caught if "collapse at step" in str(warning.message)]


def test_everything_works_without_labels(fit: Fit, tmp_path: Path) -> None:
    callbacks = [*probes(), RunPlots(str(tmp_path)), Throughput(str(tmp_path))]
    trainer = fit(callbacks, steps=4, data=TinyData(labelled=False))
    assert not logger_of(trainer).column("probe/knn_top1")
    assert logger_of(trainer).column("collapse/features_std")


def test_backbone_without_parameters_can_be_embedded() -> None:
    pictures = class_pictures(torch.arange(3), 0)
    features = embed(nn.Flatten(), pictures, lambda x: x.float(), torch.device("cpu"), batch_size=2)
    assert torch.equal(features, pictures.float().flatten(1))
