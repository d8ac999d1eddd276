"""Write docs/experiments.md from the headers of configs/experiment: `python scripts/write_experiments_doc.py`."""

from __future__ import annotations

import sys
from pathlib import Path

from lgrep.config.locate import config_folder

ROOT = Path(__file__).resolve().parents[1]
HEAD = """# Experiments

`python train.py +experiment=NAME` runs one; `python train.py --experiments` lists them. Every file says its paper, hardware
and expected numbers with their source, and is the only place where its recipe lives; any setting can be changed on the
command line. Large recipes are written for the published hardware: `trainer.devices=1 trainer.num_nodes=1
trainer.strategy=auto loader.batch_size=N` fits one to another machine. All of them are composed by the tests, and run for
two steps with small networks and made pictures; "not run here" says that the published numbers were not reproduced.

This page is written by `scripts/write_experiments_doc.py`.
"""
FAMILIES = (
    ("The embedded set (minutes on a CPU)", lambda name: "emoji" in name),
    ("StableRep and StableRep+", lambda name: name.startswith("stablerep")),
    ("SynCLR", lambda name: name.startswith("synclr")),
    ("Language-guided sampling and its baselines", lambda name: name.startswith(("lgs", "lgn"))),
    ("CLIP-rocket and relatives, CLIP, SLIP", lambda name: "rocket" in name or "yfcc15m" in name or "lip_cc" in name),
    ("t-ReX and supervised", lambda name: name.startswith(("trex", "supervised"))),
    ("Single pictures, real and synthetic (StableRep's comparison)", lambda name: "_cc" in name or "redcaps" in name),
    ("Everyday presets", lambda name: True),
)


def header(name: str) -> tuple[str, str]:
    """First line, and the remarks up to the settings that one types."""
    lines = []
    for line in (config_folder() / "experiment" / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line[1:].strip())
    lines = [line for line in lines if not line.startswith("@package")]
    remarks = []
    for line in lines[2:]:
        if not line:
            break
        remarks.append(line)
    return lines[0], " ".join(remarks)


def page() -> str:
    """The whole page."""
    left = sorted(path.stem for path in (config_folder() / "experiment").glob("*.yaml"))
    text = HEAD
    for title, belongs in FAMILIES:
        names = [name for name in left if belongs(name)]
        left = [name for name in left if name not in names]
        if names:
            text += f"\n## {title}\n\n| name | what | remarks |\n|---|---|---|\n"
        for name in names:
            line, remarks = header(name)
            cells = (f"`{name}`", line, remarks)
            text += "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"
    return text


def main() -> int:
    """Write the page; exit code."""
    (ROOT / "docs/experiments.md").write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
