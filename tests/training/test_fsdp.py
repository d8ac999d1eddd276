"""FSDP2 trains like one process, and its checkpoints are everybody's."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from made_methods import CASES, IDS, make_batch, make_method
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader

from lgrep.data.batch import Batch
from lgrep.errors import ConfigError
from lgrep.optim import Optimisation
from lgrep.training.sharded import ShardedStrategy
from training.ranks import launched, quick, train_on
from training.runs import assert_equal, only_run, overrides, run, state

STEPS = 3
KNN = "{_target_:lgrep.callbacks.OnlineKNN,every_n_steps:2}"
# teachers before and after the step, a queue, unit prototypes, logit scales, parts of a ViT called one by one
METHODS = ("moco_v3", "swav", "synclr", "image_text+byolip")


def trained(name: str, rank: int, world: int, folder: Path) -> tuple[list[float], dict[str, Tensor]]:
    """Losses (means over processes) and weights after a few steps on this process's part of each batch."""
    case = CASES[IDS.index(name)]
    method = make_method(*case[:2])
    method.optimisation = Optimisation(
        "adamw", {"fused": True, "eps": 1e-5}, 3e-3, 0.05, "norm_and_bias", 1, STEPS, 0, 0, False, 0.5
    )
    batches = [make_batch(case[2], anchors=4, seed=number) for number in range(STEPS)]
    if world > 1:
        batches = [rows(batch, slice(rank, rank + 1) if rank == 0 else slice(1, 4)) for batch in batches]
    losses: list[float] = []
    step = method.training_step

    def recorded(batch: Batch, batch_idx: int) -> Any:
        output = step(batch, batch_idx)
        losses.append(float(output["loss"].detach()))
        return output

    method.training_step = recorded  # type: ignore[method-assign]
    trainer = pl.Trainer(
        max_steps=STEPS, accelerator="cpu", devices=world, strategy=ShardedStrategy() if world > 1 else "auto",
        logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        log_every_n_steps=1000, default_root_dir=folder, gradient_clip_val=0.3, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(method, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    if world > 1:
        assert any(isinstance(parameter, DTensor) for parameter in method.parameters())
    weights = {k: v.full_tensor() if isinstance(v, DTensor) else v for k, v in method.state_dict().items()}
    return losses, {key: value.detach().clone() for key, value in weights.items()}


def rows(batch: Batch, chosen: slice) -> Batch:
    cut = {name: getattr(batch, name) for name in ("row", "group", "label", "text", "text_group", "keys")}
    return Batch(
        views=[view[chosen] for view in batch.views],
        caption_features=batch.caption_features[chosen],  # type: ignore[index]
        **{name: value[:, chosen] for name, value in cut.items()},
    )


def sharded(rank: int, names: tuple[str, ...], folder: Path) -> list[Any]:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    with launched(rank, 2):
        return [trained(name, rank, 2, folder) for name in names]


@pytest.mark.ddp
def test_methods_train_like_one_process(tmp_path: Path, run_processes: Callable[..., list[Any]]) -> None:
    first, second = run_processes(sharded, 2, METHODS, tmp_path)
    for name, (losses, weights), (others, same) in zip(METHODS, first, second, strict=True):
        expected, reference = trained(name, 0, 1, tmp_path)
        assert [(a + b) / 2 for a, b in zip(losses, others, strict=True)] == pytest.approx(expected, rel=1e-9), name
        for key, value in reference.items():
            torch.testing.assert_close(
                weights[key], value, rtol=1e-7, atol=1e-8, msg=lambda m, k=key: f"{name} {k}: {m}"
            )
            assert torch.equal(weights[key], same[key]), (name, key)


@pytest.mark.ddp
def test_a_run_is_that_of_ddp_and_resumes(tmp_path: Path) -> None:
    """Interrupted after a state, it ends with the same bits; the state is read by evaluation and by one process."""
    import lgrep

    more = ("duration.steps=4", "checkpoint.every_n_steps=2", "trainer.log_every_n_steps=1", "optimizer.eps=1e-5")
    hashes, losses = {}, {}
    for strategy in ("auto", "ddp_static", "fsdp2"):
        arguments = quick(overrides(tmp_path / "data", tmp_path / strategy, *more, f"trainer.strategy={strategy}"))
        summaries = train_on(2, [*arguments, f"+callbacks.knn={KNN}"])
        hashes[strategy] = {summary["weights_hash"] for summary in summaries}
        with (only_run(tmp_path / strategy) / "metrics.csv").open() as handle:
            losses[strategy] = [float(row["train/loss"]) for row in csv.DictReader(handle) if row["train/loss"]]
    assert hashes["auto"] == hashes["ddp_static"] and all(len(found) == 1 for found in hashes.values())
    assert losses["auto"] == pytest.approx(losses["fsdp2"], rel=1e-5) and len(losses["auto"]) == 4
    ddp, whole = (state(tmp_path / name)["state_dict"] for name in ("auto", "fsdp2"))
    assert ddp.keys() == whole.keys() and not any(isinstance(value, DTensor) for value in whole.values())
    for key, value in ddp.items():
        torch.testing.assert_close(whole[key], value, rtol=1e-4, atol=1e-5, msg=key)
    folder, before = only_run(tmp_path / "fsdp2"), state(tmp_path / "fsdp2")
    encoder, _ = lgrep.load_encoder(folder)
    assert all(torch.equal(value, whole[f"backbone.{key}"]) for key, value in encoder.state_dict().items())
    for file in ("checkpoints/step-00000004.ckpt", "checkpoints/last.ckpt", "summary.json"):
        (folder / file).unlink()
    train_on(2, [*arguments, f"+callbacks.knn={KNN}"])
    assert_equal(state(tmp_path / "fsdp2"), before)


def test_what_a_strategy_cannot_do_is_refused(tmp_path: Path) -> None:
    for more, message in (
        (("trainer.strategy=fsdp2", "trainer.precision=16-mixed"), r"gradient scaler.*precision=bf16-mixed"),
        (("trainer.strategy=ddp_static", "trainer.accumulate=2"), r"accumulate=2.*strategy=auto"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(quick(overrides(tmp_path / "data", tmp_path / "runs", *more)))
