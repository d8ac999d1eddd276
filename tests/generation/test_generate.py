"""The command line: from captions to a set that trains, its errors, and what is told of it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from generation import tiny

from lgrep.cli import run
from lgrep.config.compose import compose_config, group_choices
from lgrep.config.sources import build_source, source_spec
from lgrep.config.spec import build, validate_spec
from lgrep.data.table import open_set
from lgrep.errors import DataError
from lgrep.generation.loading import load_pipeline
from lgrep.generation.run import generate, resolve, worker_number
from lgrep.generation.scores import ClipScores
from lgrep.generation.settings import Generator
from lgrep.generation.source import GeneratedSource
from lgrep.sweeps.jobs import expand
from lgrep.sweeps.run import Outcome, _check_all


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved pipeline and a list of captions, one of them empty, one long, one twice."""
    root = tmp_path_factory.mktemp("cli")
    tiny.pipeline().save_pretrained(root / "pipe")
    lines = ["a red cat", "", "a dog", "x" * 90, "a dog", "a blue car", "the sea"]
    (root / "list.txt").write_text("\n".join(lines) + "\n")
    return root


def arguments(folder: Path, *more: str) -> list[str]:
    return [
        *(f"captions={folder / 'list.txt'}", "generator=diffusers", f"generator.pipeline={folder / 'pipe'}"),
        *("generator.steps=2", "generator.images_per_caption=2", "processes=1", "device=cpu"),
        *(f"out={folder / 'generated'}", "name=words", *more),
    ]


def program(*argv: str) -> int:
    return run("generate", "", generate, list(argv), check=resolve)


@pytest.fixture(scope="module")
def made(folder: Path) -> dict[float, dict[str, Any]]:
    """Summaries of sets with two guidance scales."""
    return {scale: generate(*compose_config("generate", arguments(folder, f"generator.guidance_scale={scale}")))
            for scale in (1.0, 4.0)}  # fmt: skip


def test_the_summary_counts_everything(made: dict[float, dict[str, Any]]) -> None:
    summary = made[1.0]
    assert summary["captions"] == {"drawn": 5, "empty": 1, "merged": 1, "truncated": 1}
    assert (summary["pictures"]["stored"], summary["pictures"]["drawn_again"]) == (10, 0)
    assert summary["finished"] and summary["batch_size"] == {"planned": 16, "lowered": []}
    run_dir = Path(summary["run_dir"])
    assert json.loads((run_dir / "generation.json").read_text()) == summary
    assert summary["bytes"] == sum(path.stat().st_size for path in run_dir.glob("*.tar"))
    assert [json.loads(line) for line in (run_dir / "skipped.jsonl").read_text().splitlines()] == [
        {"caption": "row 2", "reason": "empty caption"}
    ]
    assert summary["cpu_process_hours"] > 0 == summary["accelerator_hours"]
    table = open_set(run_dir)
    assert table.column("truncated").tolist() == [False] * 4 + [True] * 2 + [False] * 4


def test_the_same_command_draws_nothing_again(folder: Path, made: dict[float, dict[str, Any]]) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path(made[1.0]["run_dir"]).glob("*.[ta]*")}
    again = generate(*compose_config("generate", arguments(folder, "generator.guidance_scale=1.0")))
    assert again["seconds"]["by_device"] == made[1.0]["seconds"]["by_device"]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_the_noise_of_two_guidance_scales_is_the_same(made: dict[float, dict[str, Any]]) -> None:
    one, four = (open_set(summary["run_dir"]) for summary in made.values())
    assert one.column("id").tolist() == four.column("id").tolist()
    assert one.content_hash != four.content_hash


def test_sets_are_found_by_their_guidance_scale(folder: Path, made: dict[float, dict[str, Any]]) -> None:
    root = str(folder / "generated")
    for scale, summary in made.items():
        table = GeneratedSource(root, guidance_scale=scale).training()
        assert table.content_hash == summary["content_hash"]
    with pytest.raises(DataError, match=r"2 sets below .* fit.*guidance_scale=1\.0"):
        GeneratedSource(root).training()
    with pytest.raises(DataError, match=r"no finished set .* with data\.guidance_scale=3.*generate\.py"):
        GeneratedSource(root, guidance_scale=3).training()
    first = GeneratedSource(root, guidance_scale=1, images_per_caption=1, verify=True).training()
    assert first.counts.tolist() == [1] * 5 and set(first.column("index")) == {0}
    with pytest.raises(DataError, match=r"images_per_caption=5"):
        GeneratedSource(root, guidance_scale=1, images_per_caption=5).training()


def test_it_trains_mixed_with_real_pictures(folder: Path, made: dict[float, dict[str, Any]], tmp_path: Path) -> None:
    from lgrep.training.fit import train

    common = ["method=stablerep", "pairing=siblings", "pairing.pictures=2", "augment=stablerep", "duration.steps=2",
              "method.projector_dims=[8,8,4]", "backbone.image_size=32", "optimizer.base_lr=0.05", "loader.batch_size=4",
              "loader.workers=0", "trainer.accelerator=cpu", "trainer.devices=1", "callbacks=none",
              f"paths.runs={tmp_path}", "schedule.warmup_steps=0"]  # fmt: skip
    root = f"root={folder / 'generated'}"
    mixed = ["data=union", "+data@data.parts.real=emoji", "+data@data.parts.made=generated", f"data.parts.made.{root}",
             "data.parts.made.guidance_scale=4", "data.shares={real: 0.5, made: 0.5}"]  # fmt: skip
    assert train(*compose_config("train", [*common, *mixed]))["finished"]


def test_mixing_takes_the_asked_share_of_anchors(folder: Path, made: dict[float, dict[str, Any]]) -> None:
    values, _ = compose_config("train", [
        "data=union", "+data@data.parts.real=emoji", "+data@data.parts.made=generated", "data.shares={real: 3, made: 1}",
        f"data.parts.made.root={made[1.0]['run_dir']}",
    ])  # fmt: skip
    source = build_source(source_spec(values["data"]))
    table = source.training()
    assert source.mixture.shares == (0.75, 0.25)
    parts = source.mixture.split(table, np.arange(table.num_groups), np.cumsum(table.counts) - 1)
    assert len(parts[1]) == 5


def test_errors_have_their_exit_codes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = [
        (("generator=diffusers", "generator.pipeline=./nowhere"), 4, "hf download OWNER/NAME --local-dir DIR"),
        (("generator=diffusers",), 2, "generator.pipeline"),
        ((*arguments(folder), "generator.scheduler=FlowMatchEulerDiscreteScheduler"), 2, "does not fit"),
        ((*arguments(folder), "generator.scheduler=DDIM"), 2, "DDIMScheduler"),
        ((*arguments(folder), "generator.guidance=3"), 2, "guidance_scale"),
        ((*arguments(folder), "generator.safety=record"), 2, "has no safety checker"),
        ((*arguments(folder), "min_clip_score=0.2"), 2, "clip_model="),
        ((*arguments(folder), "clip_model=open_clip/ViT-B-23/x"), 2, "ViT-B-32"),
        ((*arguments(folder), "captions=nowhere.txt"), 3, "captions=nowhere.txt"),
        ((*arguments(folder), "device=tpu"), 2, "device"),
    ]
    for argv, code, text in cases:
        assert program(*argv) == code, argv
        assert text in capsys.readouterr().err, argv


def test_a_pipeline_with_other_code_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = tmp_path / "pipe"
    pipe.mkdir()
    index = json.loads((folder / "pipe" / "model_index.json").read_text())
    (pipe / "model_index.json").write_text(json.dumps({**index, "unet": ["antigravity", "Fly"]}))
    assert program("generator=diffusers", f"generator.pipeline={pipe}") == 4
    assert "only parts of diffusers and transformers" in capsys.readouterr().err
    (pipe / "model_index.json").write_text(json.dumps(index))
    assert program("generator=diffusers", f"generator.pipeline={pipe}") == 4  # no weights
    assert "cannot be loaded" in capsys.readouterr().err


@pytest.mark.parametrize("name", group_choices("generator"))
def test_every_recipe_is_valid(name: str) -> None:
    values, _ = compose_config(
        "generate", [f"generator={name}", *(["generator.pipeline=x"] if name == "diffusers" else [])]
    )
    settings: Generator = build(validate_spec(values["generator"], "generator"))
    if name == "stable_diffusion_v1_5_stablerep":  # section A of arXiv 2306.00984 and the published script's defaults
        published = (settings.guidance_scale, settings.steps, settings.size, settings.save_size, settings.codec)
        assert published == (2.0, 50, 512, 256, "png") and settings.images_per_caption == 10


def test_the_published_sampler_visits_the_published_steps(folder: Path) -> None:
    values, _ = compose_config("generate", ["generator=stable_diffusion_v1_5_stablerep"])
    settings: Generator = build({**validate_spec(values["generator"], "generator"), "pipeline": str(folder / "pipe")})
    scheduler = load_pipeline(settings, "cpu").scheduler
    scheduler.set_timesteps(50)
    assert scheduler.timesteps.tolist() == list(range(981, 0, -20))  # 1000 / 50 apart, shifted by one
    assert scheduler.final_alpha_cumprod == scheduler.alphas_cumprod[0] and not scheduler.config.clip_sample


def test_a_sweep_knows_its_jobs(folder: Path) -> None:
    jobs = [Outcome(job) for job in expand("generate", arguments(folder, "generator.guidance_scale=1,2,-1"))]
    checked = _check_all("generate", jobs, resolve)
    assert [(about.name, about.sweeps) for about in checked.values()] == [("words", Path("runs/sweeps"))] * 2
    assert [outcome.status for outcome in jobs] == ["not run", "not run", "failed"]
    assert "guidance_scale" in jobs[2].error


def test_workers_are_told_by_launchers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    assert worker_number() == (0, 1)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert worker_number() == (2, 4)
    for name, value in (("ID", "7"), ("COUNT", "5"), ("MIN", "3")):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    assert worker_number() == (4, 5)


def test_clip_scores_are_those_of_open_clip(folder: Path, tmp_path: Path, made: dict[float, dict[str, Any]]) -> None:
    import open_clip
    from PIL import Image
    from safetensors.torch import save_file

    config = {"embed_dim": 8, "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
              "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}}  # fmt: skip
    (tmp_path / "lgrep-tiny.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "lgrep-tiny.json")
    torch.manual_seed(3)
    model, _, transform = open_clip.create_model_and_transforms("lgrep-tiny")
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    name = f"clip_model=open_clip/lgrep-tiny/{tmp_path / 'weights.safetensors'}"
    scored = generate(*compose_config("generate", arguments(folder, "generator.guidance_scale=1.0", name)))
    table = open_set(scored["run_dir"])
    picture = Image.open(io.BytesIO(table.read(3))).convert("RGB")
    with torch.no_grad():
        image = model.eval().encode_image(transform(picture)[None], normalize=True)
        text = model.encode_text(open_clip.get_tokenizer("lgrep-tiny")([table.caption(3)]), normalize=True)
    assert table.column("clip_score")[3] == pytest.approx(float((image * text).sum()), abs=1e-5)
    middle = float(np.median(table.column("clip_score")))
    few = generate(*compose_config("generate", arguments(
        folder, "generator.guidance_scale=1.0", name, f"min_clip_score={middle}")))  # fmt: skip
    assert few["pictures"]["left_out"] == {"clip_score": 5} and few["pictures"]["stored"] == 5
    assert ClipScores(name.partition("=")[2]).key
