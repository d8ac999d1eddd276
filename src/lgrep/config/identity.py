"""What tells one configuration from another."""

from __future__ import annotations

import hashlib
import json
from typing import Any

# Settings that do not change what is computed; a run continues in its folder when they differ.
OPERATIONAL = ("name", "resume", "debug", "doctor", "paths", "logger", "checkpoint")
OPERATIONAL_NESTED = {
    "loader": ("workers", "cache_mb"),
    "trainer": ("log_every_n_steps", "non_finite", "timeout_s", "requeue"),
}


def identity(values: dict[str, Any]) -> str:
    """Eight hexadecimal digits that name a configuration, operational settings left out."""
    kept = {key: value for key, value in values.items() if key not in OPERATIONAL}
    for section, keys in OPERATIONAL_NESTED.items():
        kept[section] = {key: value for key, value in (kept.get(section) or {}).items() if key not in keys}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:8]
