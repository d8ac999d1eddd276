"""What happened to broken pictures: counted, written down, and limited."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from lgrep.data.batch import Batch
from lgrep.data.notices import shown
from lgrep.errors import DataError
from lgrep.files import write_text

PATIENCE = 200  # pictures seen before the share is judged
SYNC_EVERY = 20  # steps between two counts over all processes


class SkippedPictures(pl.Callback):
    """Writes `skipped.jsonl`, one line per replaced picture, and stops a run with too many of them.

    Pictures that the source left out come first, as lines of step -1. Each process writes a file of its own
    (`skipped.rank1.jsonl`, ...). A picture counts once per anchor, in however many views it is shown. The share is that
    of all processes together, so that all stop at the same step; it is judged after each step on one
    process, else every 20 steps.

    The files are the only memory: a resumed run cuts them back to its step and counts what is left.

    Args:
        run_dir: folder of the run.
        max_share: largest share of replaced pictures among those seen.
    """

    def __init__(self, run_dir: str, max_share: float) -> None:
        self.run_dir = Path(run_dir)
        self.max_share = max_share
        self.replaced = 0  # by this process
        self._last = ""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        lines = _kept(self._path(trainer), trainer.global_step)
        self.replaced = len(lines)
        left_out = getattr(trainer.datamodule.source, "left_out", []) if trainer.is_global_zero else []  # type: ignore[attr-defined]
        first = [{"step": -1, "picture": shown(name), "where": None, "reason": reason, "replaced_by": None}
                 for name, reason in left_out]  # fmt: skip
        if first or lines or self._path(trainer).exists():
            write_text(self._path(trainer), "".join([*map(_line, first), *lines]))
        self._judge(trainer, seen=0)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not isinstance(batch, Batch):
            return
        if batch.replaced:
            self.replaced += len(batch.replaced)
            self._write(trainer, batch, batch_idx // trainer.accumulate_grad_batches)
        if trainer.world_size == 1 or trainer.global_step % SYNC_EVERY == 0:
            self._judge(trainer, _pictures(trainer) * trainer.global_step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.world_size > 1:
            self._judge(trainer, _pictures(trainer) * trainer.global_step)

    def _write(self, trainer: pl.Trainer, batch: Batch, step: int) -> None:
        table = trainer.datamodule.table  # type: ignore[attr-defined]
        with self._path(trainer).open("a", encoding="utf-8") as handle:
            for row, used, reason in batch.replaced:
                line = {
                    "step": step,
                    "picture": shown(table.identity(row)),
                    "where": shown(table.store.locate(row)),
                    "reason": shown(reason),
                    "replaced_by": shown(table.identity(used)),
                }
                handle.write(_line(line))
        self._last = f"; the last: {line['where']} ({line['reason']})"

    def _judge(self, trainer: pl.Trainer, seen: int) -> None:
        """Show the count of all processes, and stop when it is too high."""
        replaced = self.replaced
        if trainer.world_size > 1:
            counted = torch.tensor(replaced, device=trainer.strategy.root_device)
            replaced = int(trainer.strategy.reduce(counted, reduce_op="sum"))  # type: ignore[arg-type]
        trainer.datamodule.replaced_count = replaced  # type: ignore[attr-defined]
        if seen >= PATIENCE and replaced > self.max_share * seen:
            raise DataError(
                f"{replaced:,} of {seen:,} pictures could not be read, more than loader.max_skip_share="
                f"{self.max_share}{self._last}. All are in {self.run_dir}/skipped*.jsonl. "
                "Mend the data, or type loader.max_skip_share=1 to go on"
            )

    def _path(self, trainer: pl.Trainer) -> Path:
        suffix = f".rank{trainer.global_rank}" if trainer.global_rank else ""
        return self.run_dir / f"skipped{suffix}.jsonl"


def _pictures(trainer: pl.Trainer) -> int:
    """Pictures (not views) that all processes see in an optimiser step."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    return int(data.batch_size) * trainer.accumulate_grad_batches * len({view.picture for view in data.views})


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False) + "\n"


def _kept(path: Path, step: int) -> list[str]:
    """Whole lines about the steps before `step`; a last line cut short by a kill is left out."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="\n") as handle:
        return [line for line in handle if line.endswith("\n") and 0 <= json.loads(line)["step"] < step]
