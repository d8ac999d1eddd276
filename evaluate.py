"""Evaluate models side by side: `python evaluate.py model=runs/stablerep_emoji dataset=emoji,digits`."""

import sys
from pathlib import Path
from typing import Any

from lgrep.cli import run
from lgrep.config.compose import parse
from lgrep.config.schema import EvaluateConfig
from lgrep.errors import ConfigError

USAGE = """usage: python evaluate.py model=MODEL [dataset=NAME] [key=value ...]

  python evaluate.py model=runs/stablerep_emoji                  the newest run below a folder
  python evaluate.py 'model=[RUN,timm/resnet18]' dataset=emoji   several models side by side
  python evaluate.py model=random/timm/resnet18 image_size=64

MODEL is a run folder, a checkpoint file, timm/NAME, torchvision/NAME, random/NAME or pixels.
Data sets: emoji, digits. The baselines pixels and random are always measured too (baselines=false leaves
them out). Prints one table; writes records/*.json and results.csv into out.
"""


def evaluate(values: dict[str, Any], choices: dict[str, str]) -> None:
    """Parse the configuration and measure."""
    import torch

    from lgrep.evaluation.run import evaluate as measure

    config = parse(EvaluateConfig, values)
    models = [config.model] if isinstance(config.model, str) else config.model
    datasets = [config.dataset] if isinstance(config.dataset, str) else config.dataset
    if not models and not config.baselines:
        raise ConfigError("model: nothing to evaluate. Type model=runs/NAME, model=timm/NAME, ...")
    out = Path(config.out)
    measure(
        models,
        datasets,
        out=out,
        seed=config.seed,
        device=("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device,
        batch_size=config.batch_size,
        image_size=config.image_size,
        num_workers=config.workers,
        baselines=config.baselines,
    )
    print(f"records and results.csv are in {out}")


if __name__ == "__main__":
    sys.exit(run("evaluate", USAGE, evaluate))
