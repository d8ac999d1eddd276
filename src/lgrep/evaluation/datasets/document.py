"""The tables of docs/datasets.md, made from the catalogue: `python -m lgrep.evaluation.datasets.document FILE`."""

from __future__ import annotations

import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

from lgrep.evaluation.datasets.catalogue import SUITES, catalogue, read_spec

_MARK = re.compile(r"(<!-- table: (\w+) -->\n).*?(?=<!-- end -->)", re.DOTALL)
_PARTS = ("train", "validation", "test")


def catalogue_table() -> str:
    """A Markdown row per published set, sorted by name."""
    rows = ["| name | classes | train / validation / test | metric | prompts | archives |", "|---|---|---|---|---|---|"]
    for name, spec in _specs().items():
        if "layouts" in spec:
            rows.append(f"| `{name}`{_stars(spec)} | {' | '.join(_cells(spec))} |")
    return "\n".join(rows) + "\n"


def suites_table() -> str:
    """A Markdown row per suite."""
    rows = ["| name | sets |", "|---|---|"]
    rows += [f"| `{name}` | {', '.join(sets)} |" for name, sets in SUITES.items()]
    return "\n".join(rows) + "\n"


def differences_table() -> str:
    """A Markdown row per set with a footnote."""
    rows = ["| name | what to know |", "|---|---|"]
    for name, spec in _specs().items():
        notes = [str(note) for note in spec.get("remarks", [])]
        if "not_comparable" in spec:
            notes.insert(0, f"**not comparable**: {spec['not_comparable']}")
        if notes:
            rows.append(f"| `{name}` | {'; '.join(notes)} |")
    return "\n".join(rows) + "\n"


def filled_in(text: str) -> str:
    """A page with its tables made anew, between `<!-- table: NAME -->` and `<!-- end -->`."""
    tables = {"catalogue": catalogue_table, "suites": suites_table, "differences": differences_table}
    return _MARK.sub(lambda match: match[1] + tables[match[2]](), text)


@cache
def _specs() -> dict[str, dict[str, Any]]:
    return {name: read_spec(name) for name in catalogue()}


def _stars(spec: dict[str, Any]) -> str:
    return " *" if "not_comparable" in spec else ""


def _cells(spec: dict[str, Any]) -> list[str]:
    sizes = spec.get("sizes", {})
    counts = " / ".join(f"{sizes[part]:,}" if part in sizes else "-" for part in _PARTS) if sizes else "not fixed"
    templates = spec.get("templates", "generic")
    prompts = f"{templates} (open_clip)" if isinstance(templates, str) else f"{len(templates)} own"
    return [
        str(spec.get("classes", "")),
        counts,
        str(spec.get("metric", "top1")),
        prompts,
        ", ".join(map(str, spec.get("archives", []))),
    ]


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(filled_in(page.read_text(encoding="utf-8")), encoding="utf-8")
