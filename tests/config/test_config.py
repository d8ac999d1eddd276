"""The composed configuration: every wrong key or value is named with the nearest right one."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from lgrep.config.compose import compose_config, group_choices
from lgrep.errors import ConfigError
from lgrep.training.resolve import Resolved, resolve


def resolved(*overrides: str) -> Resolved:
    return resolve(*compose_config("train", overrides))


# what some choices need beside themselves
COMPANIONS = {
    "pairing=siblings": ["method=stablerep"],
    "data=union": ["+data@data.parts.a=emoji", "+data@data.parts.b=emoji"],
    "method=lgslip": ["pairing=siblings"],
    "method=image_text": ["language=clip", "text=clip"],
    "method=mae": ["backbone=vit_tiny_small"],
}
LANGUAGE_COMPANIONS = {
    "slip": ["text=clip", "augment=slip"],
    "lgslip": ["text=clip"],
    "stablerep_plus": ["text=clip"],
    "clip_frozen": ["text=features"],
    "clip": ["text=clip"],
    "siglip": ["text=clip"],
    "declip_nns": ["text=clip"],
}


def companions(group: str, choice: str) -> list[str]:
    if group == "language" and choice != "none":
        return LANGUAGE_COMPANIONS.get(choice, ["method=image_text", "text=clip_rocket", "augment=clip_rocket"])
    return COMPANIONS.get(f"{group}={choice}", [])


@pytest.mark.parametrize(
    "group", ["data", "pairing", "method", "language", "text", "backbone", "optimizer", "duration"]
)
def test_every_choice_of_a_group_composes(group: str) -> None:
    for choice in group_choices(group):
        overrides = [f"{group}={choice}", *companions(group, choice)]
        while (needed := missing(overrides)) is not None:
            overrides.append(f"{needed}=somewhere")


def missing(overrides: list[str]) -> str | None:
    """The setting without a default that a command lacks; any other error is one."""
    try:
        resolved(*overrides)
    except ConfigError as error:
        found = re.match(r"(\S+): a value is needed", str(error))
        if found is None:
            raise
        return found[1]
    return None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sed=1"], r"sed: unknown setting; did you mean 'seed'"),
        (["+sed=1"], r"sed: .*has no setting 'sed'; did you mean 'seed'.*Type seed=1"),
        (["method.temprature=0.1"], r"method\.temprature: unknown setting; did you mean 'temperature'"),
        (["+method.temprature=0.1"], r"method\.temprature: SimCLR has no setting.*Type method\.temperature=0\.1"),
        (["+loader.batchsize=8"], r"loader\.batchsize: Loader has no setting.*loader\.batch_size=8"),
        (["+augment.transforms.simclr.flp=0.5"], r"augment\.transforms\.simclr\.flp: Recipe has no setting.*'flip'"),
        (["method=simclrr"], r"method=simclrr: no such choice; did you mean 'simclr'"),
        (["+experiment=stablrep_emoji"], r"experiment=stablrep_emoji: no such choice; did you mean 'stablerep_emoji'"),
        (["method.temperature=hot"], r"method\.temperature: got 'hot'; .*number.*method\.temperature=0\.1"),
        (["method.temperature=0"], r"method\.temperature: got 0; it should be greater than 0"),
        (["method.temperature=-1"], r"method\.temperature: got -1"),
        (["loader.batch_size=0"], r"loader\.batch_size: got 0; it should be greater than 0"),
        (["loader.batch_size=1.5"], r"loader\.batch_size: got 1\.5"),
        (["loader.batch_size=1"], r"batch_size=1: SimCLR needs at least 2 anchors.*Type loader\.batch_size=2"),
        (["seed=-1"], r"seed: got -1"),
        (["trainer.precision=fp16"], r"trainer\.precision: got 'fp16'.*'16-mixed'"),
        (["trainer.strategy=dpp"], r"trainer\.strategy=dpp: Lightning has no such strategy; did you mean 'ddp'"),
        (["trainer.devices=0"], r"trainer\.devices: got 0"),
        (["duration.epochs=3"], r"duration.*either epochs or steps\. Type duration=steps"),
        (["schedule.warmup_epochs=1"], r"schedule.*not both\. Type schedule\.warmup_steps=null"),
        (
            ["augment.transforms.simclr.jitter=2"],
            r"augment\.transforms\.simclr\.jitter: got 2; it should be less than or equal to 1",
        ),
        (["backbone.name=timm/resnet5"], r"timm has no 'resnet5'; did you mean"),
        (["pairing=siblings"], r"SimCLR compares exactly 2 views.*gives 6.*pairing\.pictures=2"),
        (
            ["method=stablerep", "augment.views=[{transform: simclr, size: 32, count: 1}]"],
            r"StableRep needs at least 2 views",
        ),
        (["augment.views=[{transform: simclr, size: 32, count: 2, picture: 1}]"], r"provides pictures \[0\]"),
        (["augment.views=[{transform: strong, size: 32}]"], r"no transform 'strong'"),
        (
            ["augment.views=[{transform: simclr, size: 32, cuont: 2}]"],
            r"augment\.views\.0\.cuont: .*no setting 'cuont'",
        ),
        (["data=folder"], r"data\.root: a value is needed\. Type data\.root="),
        (["method._target_=lgrep.methods.SimCRL"], r"has no 'SimCRL'; did you mean 'SimCLR'"),
        (["method._target_=nowhere.Method"], r"cannot import 'nowhere'"),
        (["=3"], r"cannot read the argument '=3'.*key=value"),
        (["seed"], r"cannot read an argument \(.*'seed'"),
        (["seed=1,2"], r"Ambiguous.*\[a,b\].*add -m"),
        (["logger.wandb.group=x"], r"belongs to logger=wandb, which is not chosen\. Type logger=wandb logger\.wandb"),
        (["nothing.like.it=1"], r"nothing\.like\.it: unknown setting; allowed: [\w, ]*trainer"),
        (["method.projector_dims=[1,2"], r"cannot read an argument \(.*\[1,2"),
        (["augment.views.0.count=3"], r"augment\.views\.0\.count: elements of a list.*'augment\.views=\[\.\.\.\]'"),
        (["augment.transforms={up: {a: 1}}"], r"Type \+augment\.transforms\.NAME=\.\.\."),
        (["method.temperature=${oops}"], r"oops"),
        (["~method"], r"method: a value is needed"),
    ],
)
def test_wrong_input_is_named(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        resolved(*overrides)
    assert len(str(caught.value).splitlines()) <= 3


def test_all_wrong_values_of_a_section_are_listed() -> None:
    with pytest.raises(ConfigError) as caught:
        resolved("loader.batch_size=0", "loader.workers=-1")
    assert len(str(caught.value).splitlines()) == 2


USERS_PACKAGE = """
import numpy as np
from pydantic import PositiveFloat

from lgrep.losses import nt_xent
from lgrep.methods import Method, StepOutput


def margin_loss(a, b, margin):
    return nt_xent(a, b, 0.2) + margin


class Mine(Method):
    exact_views = 2

    def __init__(self, backbone, margin: PositiveFloat = 1.0):
        super().__init__(backbone)
        self.margin = margin

    def training_loss(self, batch):
        features = self.encode(batch)
        a, b = features.chunk(2)
        return StepOutput(margin_loss(a, b, self.margin), features, features, {"margin": features.new_tensor(self.margin)})


class Twice:
    pictures = 2

    def anchors(self, table):
        return np.arange(len(table))

    def draw(self, table, anchor, rng):
        return [anchor, int(rng.integers(len(table)))]

    def group(self, table, anchor):
        return anchor

    def substitutes(self, table, anchor, drawn):
        return []


class Upside:
    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)

    def __init__(self, turns: int = 1):
        self.turns = turns

    def draw(self, rng, width, height):
        return {}

    def worker(self, picture, params, size):
        turned = picture.resize((size, size)).rotate(90 * self.turns)
        return np.ascontiguousarray(np.asarray(turned).transpose(2, 0, 1))

    def collate(self, params):
        return {}

    def device(self, pictures, params):
        return (pictures.float() / 255 - 0.5) / 0.5
"""


@pytest.fixture
def users_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "users_package.py").write_text(USERS_PACKAGE)
    configs = tmp_path / "users_configs"
    for group, target, settings in (("method", "Mine", "margin: 2.0"), ("pairing", "Twice", "")):
        (configs / group).mkdir(parents=True)
        (configs / group / "mine.yaml").write_text(f"_target_: users_package.{target}\n{settings}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "users_package", raising=False)
    return tmp_path


def test_a_users_own_classes_are_configured_and_checked_like_ours(users_package: Path, capsys: Any) -> None:
    from lgrep.training.fit import train

    search = f"hydra.searchpath=[file://{users_package}/users_configs]"
    turned = "+augment.transforms.up={_target_: users_package.Upside, turns: 2}"
    choices = [search, "method=mine", "pairing=mine", "augment.views=[{transform: up, size: 32}]", turned]
    with pytest.raises(ConfigError, match=r"method\.margn: Mine has no setting.*method\.margin=1"):
        resolved(*choices, "+method.margn=1")
    with pytest.raises(ConfigError, match=r"transforms\.up\.turns: got 'x'"):
        resolved(*choices, "augment.transforms.up.turns=x")
    small = ["duration.steps=2", "schedule.warmup_steps=1", "loader.batch_size=8", "loader.workers=0"]
    quiet = [
        "callbacks={}",
        f"paths.runs={users_package}/runs",
        "trainer.log_every_n_steps=1",
        "trainer.accelerator=cpu",
    ]
    summary = train(*compose_config("train", [*choices, *small, *quiet]))
    assert summary["finished"]
    assert summary["metrics"]["train/margin"] == 2.0
