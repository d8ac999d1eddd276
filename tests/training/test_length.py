"""Length of a run and its warm-up."""

from pathlib import Path

import pytest
from layouts import stablerep_layout

from lgrep.config.compose import compose_config
from lgrep.errors import ConfigError
from lgrep.training.fit import build_data, plan_optimisation
from lgrep.training.resolve import Resolved, resolve


def resolved(*overrides: str) -> Resolved:
    return resolve(*compose_config("train", overrides))


def test_data_without_schedules_say_which_have_them() -> None:
    resolution = resolved("duration=2x")
    with pytest.raises(ConfigError) as caught:
        plan_optimisation(resolution, build_data(resolution))
    assert "duration=2x: no schedule was published for data=emoji" in str(caught.value)
    assert "data=stablerep_cc12m and data=stablerep_redcaps" in str(caught.value)
    assert "Type duration=epochs duration.epochs=N" in str(caught.value)


def test_settings_go_before_the_published_schedule(tmp_path: Path) -> None:
    """12 captions in batches of 4: an epoch is 3 steps, and 1x is 15 epochs with half of one to warm up."""
    layout = stablerep_layout(tmp_path)
    data = [f"data.csv={layout}/captions.csv", f"data.root={layout}"]
    base = ["+experiment=stablerep_cc12m", *data, "loader.batch_size=4"]
    for more, expected in (
        (["duration.epochs=2"], (6, 1.5)),
        (["duration.steps=100"], (100, 1.5)),
        (["duration=2x", "schedule.warmup_epochs=2"], (93, 6.0)),
        (["duration=3x", "schedule.warmup_steps=0"], (138, 0.0)),
        (["duration=epochs", "duration.epochs=40"], (120, 100.0)),
        (["+data.schedules.short={epochs: 1, warmup_epochs: 0.25}", "duration.published=short"], (3, 0.75)),
    ):
        resolution = resolved(*base, *more)
        plan = plan_optimisation(resolution, build_data(resolution))
        assert (plan.total_steps, plan.warmup_steps) == expected
    resolution = resolved(*base, "duration.published=4x")
    with pytest.raises(ConfigError, match=r"duration\.published=4x.*1x, 2x, 3x\. Type duration=1x"):
        plan_optimisation(resolution, build_data(resolution))
