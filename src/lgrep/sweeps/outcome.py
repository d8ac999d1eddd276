"""How a job's process tells the sweep that started it how it ended."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

OUTCOME = "LGREP_OUTCOME"  # environment variable with the file to write


def tell_outcome(result: Any, error: str | None = None) -> None:
    """Write the job's result or error where the sweep asked for it; the first process of a job tells."""
    path = os.environ.get(OUTCOME)
    if path and int(os.environ.get("LOCAL_RANK", "0")) == 0:
        Path(path).write_text(json.dumps({"result": result, "error": error}, default=str), encoding="utf-8")
