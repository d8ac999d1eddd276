"""The published StableRep recipes, against facts of the authors' code and paper that are typed here."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from layouts import CAPTIONS, SEEDS, relative, stablerep_layout

from lgrep.backbones import build_backbone
from lgrep.cli import run as command_line
from lgrep.config.compose import compose_config
from lgrep.config.spec import build
from lgrep.methods import StableRep
from lgrep.optim import parameter_groups
from lgrep.training import fit
from lgrep.training.fit import build_data, plan_optimisation
from lgrep.training.resolve import Resolved, resolve
from training.runs import SCRIPT, only_run, start

RECIPES = ("stablerep_cc12m", "stablerep_redcaps")
SCHEDULES = {  # epochs, warm-up epochs
    "stablerep_cc12m": {"1x": (15, 0.5), "2x": (31, 1.0), "3x": (46, 1.5)},
    "stablerep_redcaps": {"1x": (13, 0.45), "2x": (27, 0.9), "3x": (40, 1.35)},
}
# Nothing but sizes and hardware: what is computed, and how, stays the recipe's.
SIZES = (
    *("backbone.name=timm/vit_tiny_patch16_224", "backbone.image_size=32", "+backbone.options.depth=2"),
    *("method.projector_dims=[32,32,16]", "loader.batch_size=4", "loader.workers=0", "duration.steps=3"),
    *("trainer.accelerator=cpu", "trainer.num_nodes=1", "trainer.precision=32-true"),
    *("trainer.threads=1", "trainer.log_every_n_steps=1"),
)
# Every process writes down what its steps begin with.
RECORDING = """
import json
from lgrep.methods.base import Method

begin = Method.on_train_batch_start
def recording(self, batch, batch_idx):
    begin(self, batch, batch_idx)
    optimizer = self.trainer.optimizers[0]
    names = {id(parameter): name for name, parameter in self.named_parameters()}
    line = {
        "row": batch.row.tolist(), "group": batch.group.tolist(), "epoch": batch.epoch,
        "views": [list(view.shape) for view in batch.views], "lr": [group["lr"] for group in optimizer.param_groups],
        "betas": [group["betas"] for group in optimizer.param_groups],
        "decay": {names[id(p)]: g["weight_decay"] for g in optimizer.param_groups for p in g["params"]},
    }
    with open(f"RECORDS.rank{self.global_rank}", "a") as file:
        file.write(json.dumps(line) + "\\n")
Method.on_train_batch_start = recording
"""


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stablerep_layout(tmp_path_factory.mktemp("layout"))


def data_in(folder: Path) -> list[str]:
    return [f"data.csv={folder}/captions.csv", f"data.root={folder}"]


def resolved(*overrides: str) -> Resolved:
    return resolve(*compose_config("train", overrides))


def published_lr(step: int, steps_per_epoch: int, peak: float, epochs: float, warmup: float) -> float:
    """Per iteration, on the fractional epoch."""
    epoch = step // steps_per_epoch + step % steps_per_epoch / steps_per_epoch
    if epoch < warmup:
        return peak * epoch / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup)))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, layout: Path) -> dict[int, dict[str, Any]]:
    """Runs of 3 steps on 1 and 2 processes: the records of each rank, and metrics.csv."""
    results = {}
    for devices in (1, 2):
        folder = tmp_path_factory.mktemp(f"devices{devices}")
        script = folder / "train_recorded.py"
        script.write_text(RECORDING.replace("RECORDS", str(folder / "records")) + SCRIPT)
        arguments = ["+experiment=stablerep_cc12m", *data_in(layout), *SIZES, f"trainer.devices={devices}"]
        undrawn = ("callbacks.positives=null", "callbacks.plots=null")
        done = start([str(script), *arguments, *undrawn, f"paths.runs={folder}/runs"])
        assert done.returncode == 0, done.stderr
        with (only_run(folder / "runs") / "metrics.csv").open() as handle:
            metrics = list(csv.DictReader(handle))
        ranks = [(folder / f"records.rank{rank}").read_text().splitlines() for rank in range(devices)]
        results[devices] = {
            "ranks": [[json.loads(line) for line in lines] for lines in ranks],
            "lr": [float(row["train/lr"]) for row in metrics],
            "loss": [float(row["train/loss"]) for row in metrics],
            "screen": done.stdout,
        }
    return results


@pytest.mark.ddp
def test_learning_rates_of_three_steps_by_hand(recorded: dict[int, dict[str, Any]]) -> None:
    """12 captions in batches of 4: 3 steps per epoch; peak 2e-4 * (4 * 6) / 512 = 9.375e-6 after half an epoch.

    Step 0: 0. Step 1: epoch 1/3 of a warm-up of 1/2: 2/3 of the peak. Step 2: a third of the way from epoch 1/2 to
    the end at epoch 1: (1 + cos(pi / 3)) / 2 = 3/4 of the peak.
    """
    expected = [0.0, 6.25e-6, 7.03125e-6]
    for devices in (1, 2):
        assert recorded[devices]["lr"] == pytest.approx(expected, rel=1e-6, abs=0)  # float32 in the file
        for rank in recorded[devices]["ranks"]:
            for step, line in enumerate(rank):
                assert line["lr"] == pytest.approx([expected[step]] * 2, rel=1e-12, abs=0)
                assert line["betas"] == [[0.9, 0.98]] * 2


@pytest.mark.ddp
def test_batches_of_two_processes(recorded: dict[int, dict[str, Any]]) -> None:
    whole, parts = recorded[1]["ranks"][0], recorded[2]["ranks"]
    seen: list[int] = []
    for step in range(3):
        both = [np.array(rank[step]["row"]) for rank in parts]
        # Each rank's slice is contiguous: side by side they are the batch of one process.
        assert np.concatenate(both, axis=1).tolist() == whole[step]["row"]
        for rank, rows in zip(parts, both, strict=True):
            assert rows.shape == (6, 2)  # view-major: six views of two captions
            assert rank[step]["views"] == [[2, 3, 32, 32]] * 6
            captions, roots = rows // SEEDS, rows % SEEDS
            assert (captions == captions[0]).all()  # view v, caption b at [v, b]
            assert all(len(set(roots[:, b].tolist())) == 6 for b in range(2))  # drawn without replacement
            # Rows of one caption are positives and all others negatives, as the published positional labels say.
            assert rank[step]["group"] == captions.tolist()
            seen += captions[0].tolist()
    assert sorted(seen) == list(range(CAPTIONS))  # one epoch shows every caption once; 4 and 5 have equal texts
    assert {line["epoch"] for line in whole} == {0}
    # A mean over anchors, whoever holds them; at random weights near ln(K - 1) with K = 24 pictures.
    assert recorded[1]["loss"] == pytest.approx(recorded[2]["loss"], rel=1e-4)
    assert "4 anchors = 24 pictures per step over 2 process(es), 5 positives per picture" in recorded[2]["screen"]


def test_other_views_of_a_caption_come_in_another_epoch(layout: Path) -> None:
    resolution = resolved("+experiment=stablerep_cc12m", *data_in(layout), *SIZES)
    table = resolution.source.training()
    draws = {
        tuple(resolution.pairing.draw(table, 3, np.random.default_rng(seed)))  # the generator is keyed by the epoch
        for seed in range(50)
    }
    assert len(draws) == 50
    assert {row for rows in draws for row in rows} == set(table.members(3))


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("length", ["1x", "2x", "3x"])
def test_every_learning_rate_of_every_schedule(layout: Path, recipe: str, length: str) -> None:
    overrides = [item for item in SIZES if not item.startswith("duration")]
    resolution = resolved(f"+experiment={recipe}", f"duration={length}", *data_in(layout), *overrides)
    plan = plan_optimisation(resolution, build_data(resolution))
    epochs, warmup = SCHEDULES[recipe][length]
    assert plan.total_steps == 3 * epochs
    method = StableRep(build_backbone("timm/test_resnet", 32), projector_dims=(8, 8))
    method.optimisation = plan
    made = method.configure_optimizers()
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    peak = 2e-4 * 4 * 6 / 512
    for step in range(plan.total_steps):
        expected = published_lr(step, 3, peak, epochs, warmup)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([expected] * 2, rel=1e-9, abs=1e-18)
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_recipe_at_its_real_size(tmp_path: Path, recipe: str) -> None:
    """43 captions x 6 pictures on each of 32 GPUs: lr = 2e-4 * 43 * 32 * 6 / 512 = 3.225e-3."""
    folder = stablerep_layout(tmp_path, captions=1)
    with (folder / "captions.csv").open("a") as handle:
        handle.writelines(f"{relative(number)},caption {number}\n" for number in range(1, 3000))
    resolution = resolved(f"+experiment={recipe}", *data_in(folder))
    data = build_data(resolution)
    plan = plan_optimisation(resolution, data)
    epochs, warmup = SCHEDULES[recipe]["1x"]
    assert (len(data.table), len(data.anchors), data.batches_per_epoch) == (30_000, 3000, 3000 // (43 * 32))
    assert plan.peak_lr == pytest.approx(3.225e-3, rel=1e-12, abs=0)
    assert (plan.total_steps, plan.warmup_steps) == (2 * epochs, pytest.approx(2 * warmup))
    assert (plan.name, plan.weight_decay, plan.decay_exclude) == ("adamw", 0.1, "norm_and_bias")
    assert plan.options["betas"] == (0.9, 0.98) and plan.options["eps"] == 1e-8
    assert (plan.start_lr, plan.final_lr) == (0.0, 0.0)
    config = resolution.config
    assert config.loader.batch_size == 43 * config.trainer.num_nodes * config.trainer.devices  # type: ignore[operator]
    assert (config.trainer.num_nodes, config.trainer.devices, config.trainer.sync_batchnorm) == (4, 8, True)
    assert (config.trainer.precision, config.trainer.strategy) == ("16-mixed", "ddp")
    assert [(view.picture, view.transform, view.size) for view in data.views] == [(i, "strong", 224) for i in range(6)]
    assert (config.method["temperature"], config.method["projector_dims"]) == (0.1, (4096, 4096, 256))
    assert config.backbone.name == "timm/vit_base_patch16_224" and not config.backbone.pretrained


def test_weight_decay_groups_of_the_real_network() -> None:
    """Decayed: matrices, the class token and the position embedding; not: norms and biases."""
    config = resolved("+experiment=stablerep_cc12m").config
    with torch.device("meta"):
        backbone = build_backbone(config.backbone.name, config.backbone.image_size)
        method = build(config.method, backbone=backbone)
    sizes = {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
    decayed = {f"backbone.blocks.{i}.{name}.weight" for i in range(12) for name in sizes.values()}
    decayed |= {f"backbone.{name}" for name in ("cls_token", "pos_embed", "patch_embed.proj.weight")}
    decayed |= {f"projector.linear{i}.weight" for i in (1, 2, 3)}
    names = {id(parameter): name for name, parameter in method.named_parameters()}
    groups = {
        group["name"]: {names[id(parameter)] for parameter in group["params"]}
        for group in parameter_groups(method, config.optimizer.weight_decay, config.optimizer.decay_exclude)
    }
    assert groups["decay"] == decayed
    assert groups["no_decay"] == set(names.values()) - decayed
    assert all(name.endswith((".bias", ".weight")) for name in groups["no_decay"])
    assert {name.split(".")[-2].rstrip("12") for name in groups["no_decay"] if name.endswith(".weight")} == {"norm"}
    # ViT-B/16 and the head 768-4096-4096-256 with two BatchNorms.
    assert sum(parameter.numel() for parameter in backbone.parameters()) == 85_798_656
    assert sum(parameter.numel() for parameter in method.projector.parameters()) == 20_996_352


@pytest.mark.ddp
def test_weight_decay_reaches_the_optimiser(recorded: dict[int, dict[str, Any]]) -> None:
    decay = recorded[2]["ranks"][1][0]["decay"]
    assert decay["backbone.cls_token"] == decay["backbone.pos_embed"] == 0.1
    assert decay["backbone.blocks.1.attn.qkv.weight"] == decay["projector.linear3.weight"] == 0.1
    assert decay["backbone.blocks.1.attn.qkv.bias"] == decay["backbone.norm.weight"] == 0.0
    assert {value for name, value in decay.items() if "norm" in name or "bias" in name} == {0.0}


@pytest.mark.parametrize("recipe", RECIPES)
def test_augmentation(recipe: str) -> None:
    """Crop of 8-100 % at 3/4 to 4/3, jitter .4/.4/.4/.1 at .8, grey .2, blur .5 of sigma .1-2, flip .5."""
    strong = resolved(f"+experiment={recipe}").transforms["strong"]
    assert (strong.crop_scale, strong.crop_ratio) == ((0.08, 1.0), (3 / 4, 4 / 3))
    assert (strong.interpolation, strong.flip, strong.jitter) == ("bilinear", 0.5, 0.8)
    assert strong.strengths == (0.4, 0.4, 0.4, 0.1)
    assert (strong.grayscale, strong.blur, strong.blur_sigma) == (0.2, 0.5, (0.1, 2.0))
    assert (strong.solarise, strong.downsample) == (0.0, 0.0)
    assert (strong.mean, strong.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    rng = np.random.default_rng(0)
    drawn = [strong.draw(rng, 256, 256) for _ in range(4000)]
    for name, share in (("flip", 0.5), ("jitter", 0.8), ("grayscale", 0.2)):
        assert np.mean([entry[name] for entry in drawn]) == pytest.approx(share, abs=0.03)
    sigmas = np.array([entry["sigma"] for entry in drawn])
    assert np.mean(sigmas > 0) == pytest.approx(0.5, abs=0.03)
    assert sigmas[sigmas > 0].min() == pytest.approx(0.1, abs=0.01) and sigmas.max() == pytest.approx(2.0, abs=0.01)
    factors = np.array([entry["factors"] for entry in drawn if entry["jitter"]])
    assert factors.min(axis=0) == pytest.approx([0.6, 0.6, 0.6, -0.1], abs=0.005)
    assert factors.max(axis=0) == pytest.approx([1.4, 1.4, 1.4, 0.1], abs=0.005)
    shares = np.array([entry["box"][2] * entry["box"][3] for entry in drawn]) / 256**2
    assert shares.min() == pytest.approx(0.08, abs=0.005) and shares.max() > 0.98
    variant = resolved(f"+experiment={recipe}", "augment.transforms.strong.downsample=0.05").transforms["strong"]
    assert (variant.downsample, variant.downsample_resolutions, variant.downsample_restore) == (0.05, (64, 128), 256)


@pytest.mark.parametrize("recipe", RECIPES)
def test_absent_data_end_the_program_before_anything_is_built(
    recipe: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], layout: Path, tmp_path: Path
) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a network was built")

    monkeypatch.setattr(fit, "build_backbone", forbidden)
    monkeypatch.chdir(tmp_path)
    cases = [
        ([], 3, "data.csv and data.root (or data.folder_list) not set"),
        ([*data_in(layout), "data.seeds=12"], 3, "lacks 2 of 12 folders: ddim_2.0_seed_11, ddim_2.0_seed_12."),
        ([*data_in(layout), "data.guidance_scale=8"], 3, "lacks 10 of 10 folders: ddim_8.0_seed_1"),
        ([*data_in(layout), "pairing.pictures=11"], 3, "Type pairing.pictures=10"),
        ([*data_in(layout)], 2, "loader.batch_size=1376 is more than the 12 anchors"),
    ]
    for overrides, code, message in cases:
        assert command_line("train", "", fit.train, [f"+experiment={recipe}", *overrides]) == code
        said = capsys.readouterr().err
        assert message in said
        assert "Traceback" not in said
    assert not list(tmp_path.iterdir())
