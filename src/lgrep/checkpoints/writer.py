"""Writing checkpoints so that a full disk costs nothing that was already saved."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pytorch_lightning.plugins.io import TorchCheckpointIO

from lgrep.checkpoints.seal import save_sealed


class CheckpointWriter(TorchCheckpointIO):
    """Writes to the path it is given, with a content hash, and remembers why it could not, instead of raising.

    Only one process writes while the others wait for it; an exception there would leave them waiting for ever.

    Attributes:
        problem: what went wrong in the last write, None when it worked.
    """

    def __init__(self) -> None:
        super().__init__()
        self.problem: str | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        self.problem = None
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with open(path, "wb") as handle:
                save_sealed(checkpoint, handle)
                handle.flush()
                os.fsync(handle.fileno())
        except (OSError, RuntimeError) as error:  # torch's writer turns some failed writes into a RuntimeError
            cause = error if isinstance(error, OSError) else (error.__cause__ or error.__context__ or error)
            self.problem = cause.strerror or str(cause) if isinstance(cause, OSError) else str(cause).splitlines()[0]
            Path(path).unlink(missing_ok=True)
