"""Which jobs a command line asks for; Hydra's own sweeper is the reference."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from lgrep.config import compose
from lgrep.errors import ConfigError
from lgrep.sweeps.jobs import expand


@pytest.mark.parametrize(
    "arguments",
    [
        ["seed=1,2", "method.temperature=0.05,0.1"],
        ["seed=range(1,4)", "name=a"],
        ["+experiment=simclr_emoji,stablerep_emoji", "seed=3"],
        ["method.projector_dims=[8,4],[16,8]", "optimizer.base_lr=choice(1e-3,2e-3)"],
        ["name='a,b'", "seed=5"],
        ["name=x\\,y,z"],
        ["duration.epochs=range(0.5,2,step=0.5)", "seed=1,2", "trainer.channels_last=true,false"],
    ],
)
def test_the_same_jobs_as_hydra(arguments: list[str]) -> None:
    parsed = OverridesParser.create().parse_overrides(arguments)
    (reference,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    jobs = expand("train", arguments)
    assert [sorted(job.overrides) for job in jobs] == [sorted(overrides) for overrides in reference]
    assert [job.number for job in jobs] == list(range(1, len(reference) + 1))


def test_swept_values_are_named_without_marks() -> None:
    jobs = expand("train", ["+experiment=simclr_emoji,stablerep_emoji", "seed=1"])
    assert [job.swept for job in jobs] == [{"experiment": "simclr_emoji"}, {"experiment": "stablerep_emoji"}]
    assert jobs[0].text == "experiment=simclr_emoji"


def test_glob_lists_the_files_of_a_group() -> None:
    jobs = expand("train", ["method=glob(sim*)"])
    assert "simclr" in [job.swept["method"] for job in jobs]
    assert all(job.swept["method"].startswith("sim") for job in jobs)
    with pytest.raises(ConfigError, match="no value is left"):
        expand("train", ["method=glob(nothing*)"])


def test_an_interval_cannot_be_listed() -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.base_lr=interval\(0,1\).*Type optimizer\.base_lr=a,b"):
        expand("train", ["optimizer.base_lr=interval(0,1)"])


def test_what_cannot_be_read_is_said() -> None:
    with pytest.raises(ConfigError, match="cannot read the arguments"):
        expand("train", ["seed=1,2", "method.projector_dims=[1,2"])


def test_an_experiment_may_bring_its_own_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "swept.yaml").write_text(
        "defaults: [_self_]\nseed: 0\nname: x\nhydra: {sweeper: {params: {seed: '1,2', name: 'a,b'}}}\n"
    )
    monkeypatch.setattr(compose, "config_folder", lambda: tmp_path)
    texts = [job.text for job in expand("swept", ["name=c,d"])]
    assert texts == ["name=c seed=1", "name=c seed=2", "name=d seed=1", "name=d seed=2"]
