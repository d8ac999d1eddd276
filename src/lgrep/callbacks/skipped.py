"""What happened to broken pictures: counted, written down, and limited."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from lgrep.data.batch import Batch
from lgrep.errors import DataError

PATIENCE = 200  # pictures seen before the share is judged


class SkippedPictures(pl.Callback):
    """Writes `skipped.jsonl`, one line per replaced picture, and stops a run with too many of them.

    Args:
        run_dir: folder of the run.
        max_share: largest share of replaced pictures among those seen.
    """

    def __init__(self, run_dir: str, max_share: float) -> None:
        self.run_dir = Path(run_dir)
        self.max_share = max_share
        self.replaced = 0
        self.seen = 0

    def state_dict(self) -> dict[str, Any]:
        return {"replaced": self.replaced, "seen": self.seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.replaced, self.seen = state_dict["replaced"], state_dict["seen"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._count(trainer)
        path = self._path(trainer)
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] < trainer.global_step]
            path.write_text("".join(kept), encoding="utf-8")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not isinstance(batch, Batch):
            return
        self.seen += batch.row.numel()
        if not batch.replaced:
            return
        self.replaced += len(batch.replaced)
        self._count(trainer)
        table = trainer.datamodule.table  # type: ignore[attr-defined]
        with self._path(trainer).open("a", encoding="utf-8") as handle:
            for row, used, reason in batch.replaced:
                line = {
                    "step": trainer.global_step - 1,
                    "picture": table.identity(row),
                    "where": table.store.locate(row),
                    "reason": reason,
                    "replaced_by": table.identity(used),
                }
                handle.write(json.dumps(line, ensure_ascii=False) + "\n")
        if self.seen >= PATIENCE and self.replaced > self.max_share * self.seen:
            raise DataError(
                f"{self.replaced} of {self.seen} pictures could not be read, more than loader.max_skip_share="
                f"{self.max_share}; the last: {batch.replaced[-1][2]}. All are in {self._path(trainer)}. "
                "Mend the data, or type loader.max_skip_share=1 to go on"
            )

    def _count(self, trainer: pl.Trainer) -> None:
        trainer.datamodule.replaced_count = self.replaced  # type: ignore[attr-defined]

    def _path(self, trainer: pl.Trainer) -> Path:
        suffix = f".rank{trainer.global_rank}" if trainer.global_rank else ""
        return self.run_dir / f"skipped{suffix}.jsonl"
