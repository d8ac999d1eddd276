"""What is typed for `evaluate.py`, in the words of its configuration."""

from __future__ import annotations

from collections.abc import Iterable


def spelled_out(overrides: Iterable[str]) -> list[str]:
    """Overrides with `dataset=` as the list that it stands for, and data sets' options without a `+`.

    `dataset` itself would be a group of files to Hydra, which could not be a list, `all` or a user's file.

    >>> spelled_out(["dataset=digits", "options.emoji.test_fold=2", "seed=1"])
    ['datasets=digits', '++options.emoji.test_fold=2', 'seed=1']
    """
    written = []
    for override in overrides:
        key, sign, value = override.partition("=")
        if key == "dataset":
            override = f"datasets{sign}{value}"
        elif key.startswith("options."):
            override = f"++{override}"
        written.append(override)
    return written
