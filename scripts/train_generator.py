"""Train the emoji generator: `python scripts/train_generator.py --out FOLDER` (the same command goes on)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from lgrep.cli import program
from lgrep.data.progress import Progress
from lgrep.generation import emoji_training as training
from lgrep.generation.emoji_drawings import training_drawings
from lgrep.generation.emoji_stages import prepare


@program
def main() -> int:
    """Train, or go on; write the pipeline at the end and now and then."""
    options = _options()
    settings = training.GeneratorTraining(
        steps=options.steps, batch_size=options.batch_size, seed=options.seed, precision=options.precision
    )
    checkpoint = options.work / "checkpoint.pt"
    found = training_drawings()
    trainer = training.Trainer(settings, found, training.build_pipeline(settings, found), options.device)
    if checkpoint.is_file():
        trainer.load_state(training.load_checkpoint(checkpoint))
    else:
        prepare(trainer, lambda line: print(line, flush=True))
        training.save_checkpoint(trainer.state(), checkpoint)
    run(trainer, checkpoint, options.out, options.save_every)
    return 0


def run(trainer: training.Trainer, checkpoint: Path, out: Path, save_every: int) -> None:
    """All steps that are left."""
    before, losses = trainer.step, []
    shown = {"loss": float("nan")}
    with Progress(
        trainer.settings.steps, before, lambda: trainer.step - before, "steps", lambda: f"loss {shown['loss']:.4f}"
    ):
        while trainer.step < trainer.settings.steps:
            losses.append(trainer.train_step())
            if trainer.step % 50 == 0:
                shown["loss"] = torch.stack(losses[-500:]).mean().item()
                losses = losses[-500:]
            if trainer.step % save_every == 0:
                training.save_checkpoint(trainer.state(), checkpoint)
                trainer.save_pipeline(out)
    training.save_checkpoint(trainer.state(), checkpoint)
    trainer.save_pipeline(out)
    print(f"{trainer.step:,} steps in {trainer.seconds / 60:.0f} min: {out}")


def _options() -> argparse.Namespace:
    defaults = training.GeneratorTraining()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/generator/pipeline"), help="folder of the pipeline")
    parser.add_argument("--work", type=Path, default=Path("runs/generator"), help="folder of the checkpoint")
    parser.add_argument("--steps", type=int, default=defaults.steps, help="may be raised when going on")
    parser.add_argument("--batch-size", type=int, default=defaults.batch_size)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--precision", choices=("bfloat16", "float32"), default=defaults.precision)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--save-every", type=int, default=500, help="steps between checkpoints")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
