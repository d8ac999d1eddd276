"""Which of several processes this is, known before they form a group and without importing Lightning."""

from __future__ import annotations

import os

from lightning_utilities.core.rank_zero import rank_zero_only

# What launchers say, in the order in which Lightning asks.
_TOLD = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")


def rank() -> int:
    """Rank of this process as Lightning says it, or, where Lightning is not in use, as its launcher says it."""
    known = getattr(rank_zero_only, "rank", None)
    if known is None:
        known = next((os.environ[name] for name in _TOLD if name in os.environ), 0)
    return int(known)
