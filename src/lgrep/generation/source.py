"""Generated sets as a source of training pictures, found by how they were made."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from lgrep.data.notices import shown
from lgrep.data.probe import ProbeTables
from lgrep.data.shards import verify_set
from lgrep.data.sources.listing import check_folder
from lgrep.data.table import Table, open_set
from lgrep.errors import DataError
from lgrep.generation.plan import PLAN

_MAKE = "python generate.py"
_DEFAULT_PLACES = ("generated", "generated/emoji_emoji")  # of what generate.py writes without further settings


class GeneratedSource:
    """A set that `generate.py` made.

    Args:
        root: folder of the set, or a folder of such folders, of which the other arguments pick one.
        guidance_scale, steps, seed: with which the set was made; None: any.
        images_per_caption: take only the first so many pictures of each caption; None: all.
        verify: read the whole set first and compare it with its content hash.
        probe: another source, whose labelled pictures the online probes look at; `emoji` for the embedded set.
    """

    def __init__(
        self,
        root: str = "generated",
        guidance_scale: NonNegativeFloat | None = None,
        steps: PositiveInt | None = None,
        seed: NonNegativeInt | None = None,
        images_per_caption: PositiveInt | None = None,
        verify: bool = False,
        probe: Literal["emoji"] | None = None,
    ) -> None:
        self.root = root
        self.wanted = {"guidance_scale": guidance_scale, "steps": steps, "seed": seed}
        self.images_per_caption = images_per_caption
        self.verify = verify
        self.shown_to_probes = probe

    def training(self) -> Table:
        folder = self._find(
            check_folder(self.root, "data.root", f"that {_MAKE} wrote, or type {self._command()} first")
        )
        if self.verify:
            verify_set(folder)
        table = open_set(folder)
        count = self.images_per_caption
        if count is None:
            return table
        made = _description(folder)["generation"]["selection"]["images_per_caption"]
        if count > made:
            raise DataError(
                f"data.images_per_caption={count}: {shown(folder)} has {made} of each caption. Add the rest with the command "
                f"that made it and generator.images_per_caption={count}"
            )
        return table.select(np.flatnonzero(table.column("index") < count))

    def probe(self) -> ProbeTables | None:
        if self.shown_to_probes is None:
            return None
        from lgrep.data.sources.emoji import EmojiSource

        return EmojiSource().probe()

    def _find(self, root: Path) -> Path:
        """The one finished set at or below `root` that was made as wanted."""
        found = [path.parent for path in sorted([root / "set.json", *root.glob("*/set.json"), *root.glob("*/*/set.json")])
                 if path.is_file()]  # fmt: skip
        fitting = [folder for folder in found if self._fits(_facts(_description(folder)))]
        if len(fitting) == 1:
            return fitting[0]
        asked = " ".join(f"data.{name}={value}" for name, value in self.wanted.items() if value is not None)
        if not fitting:
            begun = [path for path in [*root.glob(PLAN), *root.glob(f"*/{PLAN}"), *root.glob(f"*/*/{PLAN}")]
                     if not (path.parent / "set.json").is_file()]  # fmt: skip
            more = f" ({len(begun)} are not finished, {shown(begun[0].parent)} for one)" if begun else ""
            there = _listed(found, root)
            settings = " ".join(self._settings()) or "other settings"
            advice = (
                f"the command that made them ({_MAKE} ...) with {settings}" if found else f"{self._command()} first"
            )
            raise DataError(
                f"no finished set below data.root={shown(root)}{' with ' + asked if asked else ''}{more}{there}. Type {advice}"
            )
        raise DataError(
            f"{len(fitting)} sets below data.root={shown(root)} fit{' ' + asked if asked else ''}{_listed(fitting, root)}. "
            "Type data.root=FOLDER of one of them, or data.guidance_scale, data.steps or data.seed"
        )

    def _settings(self) -> list[str]:
        """What is typed after `generate.py` for a set as wanted."""
        keys = {"guidance_scale": "generator.guidance_scale", "steps": "generator.steps", "seed": "seed"}
        given = {keys[name]: value for name, value in self.wanted.items() if value is not None}
        typed = [f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in given.items()]
        count = self.images_per_caption
        return typed if count is None else [*typed, f"generator.images_per_caption={count}"]

    def _command(self) -> str:
        """The command that makes a set as wanted, of emoji, where this source finds it."""
        place = Path(self.root).as_posix()
        out = [] if place in _DEFAULT_PLACES else [f"out={shlex.quote(self.root)}"]
        return " ".join([_MAKE, *out, *self._settings()])

    def _fits(self, facts: dict[str, Any]) -> bool:
        return all(value is None or facts.get(name) == value for name, value in self.wanted.items())


def _description(folder: Path) -> dict[str, Any]:
    try:
        about = json.loads((folder / "set.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{shown(folder / 'set.json')} is damaged ({error}). Type the command that made it again"
        ) from error
    if not isinstance(about, dict) or not isinstance(about.get("generation"), dict):
        raise DataError(
            f"{shown(folder)} holds a set that {_MAKE} did not make. Type data=shards data.root={shown(folder)}"
        )
    return about


def _facts(about: dict[str, Any]) -> dict[str, Any]:
    made = about["generation"]
    return {**made.get("settings", {}), "seed": made.get("seed")}


def _listed(folders: list[Path], root: Path) -> str:
    """The sets by what tells them apart."""
    names = ("guidance_scale", "steps", "seed")
    lines = []
    for folder in folders[:8]:
        facts = _facts(_description(folder))
        lines.append(f"{folder.relative_to(root)} ({' '.join(f'{name}={facts.get(name)}' for name in names)})")
    return f"; there are {', '.join(lines)}" if lines else ""
