"""Every experiment: composed and checked as it stands; run for two steps with less of everything."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layouts import stablerep_layout
from made import picture_folder
from write_experiments_doc import page

from lgrep.config.compose import compose_config, experiments
from lgrep.config.locate import config_folder
from lgrep.data.neighbours import NeighboursAbout, write_neighbours
from lgrep.data.sources import FolderSource
from lgrep.errors import ConfigError
from lgrep.training.fit import train
from lgrep.training.resolve import resolve

DESCRIPTIONS = experiments()
NAMES = sorted(DESCRIPTIONS)
# one of each kind in the default run; the others are the same code with other numbers
SHOWN = ("stablerep_plus_laion1m", "mae_cc12m", "dino_cc3m_synthetic", "lgslip_redcaps", "lgssl_declip_nns_redcaps",
         "lgssl_clip_sbert_redcaps", "clip_rocket_29m_rn50", "byolip_yfcc15m_vits16", "slip_yfcc15m_vitb16",
         "trex_imagenet", "synclr_base", "swav_cifar10", "vicreg_imagenette")  # fmt: skip
ROOTS = ["data.root=DIR", *(f"data.parts.{part}.root=DIR" for part in ("cc3m", "cc12m", "yfcc15m"))]
HEADS = {
    "projector_dims": "[24,12]", "predictor_dims": "[16,12]", "prototypes": "10", "hidden_dim": "16",
    "bottleneck_dim": "8", "queue_size": "8", "memory_size": "13", "decoder_dim": "16", "decoder_depth": "1",
    "decoder_heads": "2",
}  # fmt: skip
SMALL = [
    *("backbone.image_size=32", "duration.steps=2", "duration.epochs=null", "++duration.published=null"),
    *("schedule.warmup_steps=1", "schedule.warmup_epochs=null", "loader.batch_size=4", "loader.workers=0"),
    *("trainer.accelerator=cpu", "trainer.devices=1", "trainer.num_nodes=1", "trainer.strategy=auto"),
    *("trainer.precision=32-true", "trainer.threads=1", "callbacks=none", "checkpoint.every_n_steps=1000"),
]


FITTING: dict[str, int] = {}  # data set -> how many roots it wants


def composed(name: str, *more: str) -> tuple[dict[str, Any], dict[str, str]]:
    text = (config_folder() / "experiment" / f"{name}.yaml").read_text(encoding="utf-8")
    data = "".join(re.findall(r"/data: (\S+)", text))
    for count in sorted((0, 1, 4), key=lambda count: count != FITTING.get(data)):
        try:
            found = compose_config(
                "train", [f"+experiment={name}", *(ROOTS[1:] if count == 4 else ROOTS[:count]), *more]
            )
        except ConfigError:
            continue
        FITTING[data] = count
        return found
    return compose_config("train", [f"+experiment={name}", *more])


@pytest.mark.parametrize("name", NAMES)
def test_is_complete_and_consistent(name: str) -> None:
    values, choices = composed(name)
    resolved = resolve(values, choices)
    assert resolved.name == name or name in ("stablerep_emoji", "simclr_emoji", "lgsimclr_emoji")
    assert len(DESCRIPTIONS[name]) > 20 and DESCRIPTIONS[name].endswith((".", ")"))
    assert resolved.config.loader.batch_size >= 32


def data_of(values: dict[str, Any], tmp_path: Path) -> list[str]:
    """Overrides for a few made pictures in the layout that the experiment's source reads, or in folders."""
    if values["text"].get("features"):
        return ["data=emoji"]
    if values["data"]["_target_"].endswith("CaptionFolders"):
        layout = stablerep_layout(tmp_path / "data", seeds=6)
        folders = ",".join(str(layout / f"ddim_2.0_seed_{seed}") for seed in range(1, 7))
        return [f"data.csv={layout / 'captions.csv'}", f"data.folder_list=[{folders}]"]
    root = picture_folder(tmp_path / "data")
    chosen = ["data=folder", f"data.root={root}", "data.captions=sidecar", "data.labels=folder", "data.group=folder"]
    if "table" not in values["pairing"]:
        return chosen
    table = FolderSource(str(root), captions="sidecar", labels="folder", group="folder").training()
    groups = table.num_groups
    about = NeighboursAbout(unit="caption", table=table.name, content_hash=table.content_hash)
    indices = (np.arange(groups) + 1)[:, None] % groups
    write_neighbours(tmp_path / "neighbours", indices, np.full((groups, 1), 0.5), about)
    return [*chosen, f"pairing.table={tmp_path / 'neighbours'}"]


def less(values: dict[str, Any]) -> list[str]:
    """Overrides for a small network; what is computed, and how, stays the recipe's."""
    found = [f"method.{key}={value}" for key, value in HEADS.items() if key in values["method"]]
    vit = "vit" in values["backbone"]["name"]
    found += ["backbone.name=timm/vit_tiny_patch16_224" if vit else "backbone.name=timm/test_resnet"]
    found += [*(["+backbone.options.depth=1"] if vit else []), *SMALL]
    if values["language"].get("tower", {}).get("name") == "clip":
        found += [
            "language.tower.options.width=16",
            "language.tower.options.heads=2",
            "language.tower.options.layers=1",
        ]
    if "ClipRocket" in values["language"].get("_target_", ""):
        found += ["++language.hidden_dim=16"]
    if "cross" in values["language"] and values["language"]["cross"] in ("barlip", "siamlip", "byolip"):
        found += ["+language.cross_options.hidden_dim=8", "+language.cross_options.out_dim=6"]
    return found


def dry_run(name: str, tmp_path: Path) -> None:
    values, _ = composed(name)
    chosen = [f"+experiment={name}", *data_of(values, tmp_path), *less(values), f"paths.runs={tmp_path / 'runs'}"]
    summary = train(*compose_config("train", chosen))
    assert summary["finished"] and summary["budget"]["steps"] == 2


@pytest.mark.parametrize("name", SHOWN)
def test_runs_two_steps(name: str, tmp_path: Path) -> None:
    dry_run(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(NAMES) - set(SHOWN)))
def test_every_other_runs_two_steps(name: str, tmp_path: Path) -> None:
    dry_run(name, tmp_path)


def test_the_page_of_experiments_is_up_to_date() -> None:
    written = (Path(__file__).parents[1] / "docs/experiments.md").read_text(encoding="utf-8")
    assert written == page(), "type: python scripts/write_experiments_doc.py"
