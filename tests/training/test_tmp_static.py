from pathlib import Path
import pytest
from training.ranks import quick, train_on
from training.runs import overrides


@pytest.mark.parametrize("extra", [["method=byol", "method.predictor_dims=[16,8]"], ["trainer.accumulate=2"]])
def test_x(tmp_path, extra):
    h = []
    for strategy in ("ddp_static", "auto"):
        s = train_on(
            2,
            quick(
                overrides(
                    tmp_path / "data",
                    tmp_path / "runs",
                    "duration.steps=3",
                    "schedule.warmup_steps=1",
                    f"trainer.strategy={strategy}",
                    *extra,
                )
            ),
        )
        h.append(s[0]["weights_hash"])
        print(strategy, s[0]["metrics"], h)
    assert h[0] == h[1]
