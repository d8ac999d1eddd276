"""Evaluate models side by side: `python evaluate.py model=runs/stablerep_emoji dataset=[emoji,digits]`."""

import sys
from pathlib import Path
from typing import Any

from lgrep.cli import run
from lgrep.config.compose import parse
from lgrep.config.schema import EvaluateConfig
from lgrep.errors import ConfigError

USAGE = """usage: python evaluate.py model=MODEL [dataset=NAME] [evaluation=NAME] [key=value ...]

  python evaluate.py model=runs/stablerep_emoji                     the newest run below a folder
  python evaluate.py 'model=[RUN,timm/resnet18]' dataset=digits     several models side by side
  python evaluate.py model=RUN 'evaluation=[knn,linear]' evaluation.knn.k=5 dataset=all
  python evaluate.py model=RUN dataset=emoji options.emoji.test_fold=2 options.emoji.val_fold=3

MODEL is a run folder, a checkpoint file, timm/NAME, torchvision/NAME, open_clip/NAME, random/NAME or pixels;
RUN:projector and RUN:both measure the projector's output, and backbone and projector side by side.
The baselines pixels and random are always measured too (baselines=false leaves them out). Features are kept and
reused (cache.enabled=false does without). Prints one table; writes records/*.json, results.csv and summary.json
into out; typed again, it measures only what is missing or changed (resume=never: everything).
"""


def evaluate(values: dict[str, Any], choices: dict[str, str]) -> None:
    """Parse the configuration and measure."""
    import torch

    from lgrep.evaluation.cache import FeatureCache
    from lgrep.evaluation.run import evaluate as measure

    config = parse(EvaluateConfig, values)
    models = [config.model] if isinstance(config.model, str) else config.model
    if not models and not config.baselines:
        raise ConfigError("model: nothing to evaluate. Type model=runs/NAME, model=timm/NAME, ...")
    out, cache = Path(config.out), config.cache
    measure(
        models,
        config.datasets,
        out=out,
        seed=config.seed,
        device=("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device,
        batch_size=config.batch_size,
        image_size=config.image_size,
        num_workers=config.workers,
        baselines=config.baselines,
        options=config.options,
        evaluators=config.evaluation,
        cache=FeatureCache(cache.folder, cache.max_gb, cache.dtype) if cache.enabled else None,
        resume=config.resume == "auto",
    )
    print(f"records, results.csv and summary.json are in {out}")


if __name__ == "__main__":
    sys.exit(run("evaluate", USAGE, evaluate))
