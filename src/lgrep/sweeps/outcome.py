"""How a job's process tells the sweep that started it how it ended."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lgrep.files import write_text

OUTCOME = "LGREP_OUTCOME"  # environment variable with the file to write
_RANKS = ("LOCAL_RANK", "RANK", "SLURM_PROCID")  # as Lightning, torchrun and srun number processes


def tell_outcome(result: Any, error: str | None = None, code: int = 0) -> None:
    """Write the job's result, or its error and exit code, where the sweep asked for it; the first process tells."""
    path = _asked()
    if path is not None:
        write_text(path, json.dumps({"result": result, "error": error, "code": code}, default=str))


@contextmanager
def alone() -> Iterator[None]:
    """Wait until no other process does this job.

    The jobs of a sweep that was killed live on. When the sweep is started again, the same job waits for them here,
    so that no two processes ever write one run folder.
    """
    path = _asked()
    if path is None:
        yield
        return
    from lgrep.generation.claims import Claims  # has locks of Unix, which a run outside of a sweep can do without

    claims = Claims(path.parent / "claims")
    said = False
    while True:
        with claims.take(path.stem) as mine:
            if mine:
                yield
                return
        if not said:
            print(f"{path.stem} is still at work since an earlier start: waiting for it", flush=True)
            said = True
        time.sleep(0.5)


def read_outcome(path: Path) -> dict[str, Any]:
    """What a job told so far; empty when nothing."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _asked() -> Path | None:
    path = os.environ.get(OUTCOME)
    first = all(os.environ.get(name, "0") == "0" for name in _RANKS)
    return Path(path) if path and first else None
