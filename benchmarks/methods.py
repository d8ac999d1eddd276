"""Time and peak memory of a training step, against the same method put together from other libraries.

    python benchmarks/methods.py --out benchmarks/methods          everything (a few minutes on 2 cores)
    python benchmarks/methods.py --methods byol swav --steps 5     part of it

Ours and theirs have the same backbone, batch, head widths, optimiser (AdamW, each as its own code makes it), device and
threads. Their steps alternate in one process, so that a busy machine disturbs both alike; medians count. Peak memory
is that of a process of its own after three steps, without what it holds before the model is made.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from methods_peers import CONTEXT, EMBEDDING, PEERS, TOWER, VOCABULARY, WIDTHS
from omegaconf import OmegaConf
from torch import nn

from lgrep.backbones import build_backbone
from lgrep.config.locate import config_folder
from lgrep.config.spec import build, validate_spec
from lgrep.data.batch import Batch
from lgrep.methods.base import Method
from lgrep.methods.language import CLIPObjective, Modalities, Tower
from lgrep.optim import build_optimizer, parameter_groups
from lgrep.records import provenance

SIZES = {"simclr": [2], "byol": [2], "swav": [2, 6], "dino": [2, 6], "mae": [1], "clip": [1]}  # large and small views
Step = Callable[[], None]


def make_batch(method: str, anchors: int, size: int, device: str) -> Batch:
    """Random pictures; small views have half the side."""
    draw = torch.Generator().manual_seed(0)
    sides = [side for side, count in zip((size, size // 2), SIZES[method], strict=False) for _ in range(count)]
    row = torch.arange(anchors).expand(len(sides), -1)
    return Batch(
        views=[torch.randn(anchors, 3, side, side, generator=draw) for side in sides], row=row, group=row, label=row * 0,
        text=torch.randint(1, VOCABULARY, (1, anchors, CONTEXT), generator=draw),
        keys=torch.stack([row[0] * 0, row[0]]),
    ).to(device)  # fmt: skip


def make_backbone(method: str, options: argparse.Namespace) -> Any:
    torch.manual_seed(0)
    name = options.vit if method == "mae" else options.backbone
    return build_backbone(f"timm/{name}", options.size if method == "mae" else None)


def ours(method: str, options: argparse.Namespace) -> Step:
    """A step as Lightning's loop makes it with a method of this project, without the loop itself."""
    backbone = make_backbone(method, options)
    if method == "clip":
        from lgrep.methods.image_text import ImageText

        made: Method = ImageText(backbone)
        tower = Tower(name="clip", options=TOWER)
        modalities = Modalities(backbone.dim, 0, VOCABULARY, CONTEXT)
        made.language = CLIPObjective(modalities, tower=tower, embed_dim=EMBEDDING)
    else:
        node: Any = OmegaConf.to_container(OmegaConf.load(config_folder() / "method" / f"{method}.yaml"))
        node.pop("defaults", None)
        checked = validate_spec({**node, **WIDTHS[method]}, "method", ("backbone", "num_classes"))
        made = build(checked, backbone=backbone, num_classes=2)
    made.to(options.device).train()
    optimizer = build_optimizer("adamw", parameter_groups(made, 1e-4), 1e-3, fused=True)
    batch = make_batch(method, options.anchors, options.size, options.device)

    def step() -> None:
        made.before_step()
        loss = made.objective(batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        made.after_step()
        if made.language is not None:
            made.language.after_step()

    return step


def theirs(method: str, options: argparse.Namespace) -> Step:
    """A step as the peer's example makes it."""
    backbone = make_backbone(method, options)
    made = PEERS[method][1](backbone, backbone.dim).to(options.device).train()
    optimizer = torch.optim.AdamW([p for p in made.parameters() if p.requires_grad], 1e-3, weight_decay=1e-4)
    batch = make_batch(method, options.anchors, options.size, options.device)

    def step() -> None:
        made.before_step()
        loss = made.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if isinstance(getattr(made, "logit_scale", None), nn.Parameter):
            with torch.no_grad():
                made.logit_scale.clamp_(0, 4.6052)

    return step


MAKERS = {"lgrep": ours, "peer": theirs}


def memory(device: str) -> float:
    """Highest number of bytes that this process has held so far."""
    if device == "cuda":
        return float(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status")  # a child's ru_maxrss starts at its parent's
    if status.is_file():
        return 1024.0 * int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1])  # type: ignore[index]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def measure_memory(method: str, candidate: str, options: argparse.Namespace) -> float:
    """Megabytes, in this process."""
    warm = nn.Linear(8, 8)  # libraries load and buffers are made
    warm(torch.randn(4, 8)).sum().backward()
    before = memory(options.device)
    step = MAKERS[candidate](method, options)
    for _ in range(3):
        step()
    wait(options.device)
    return (memory(options.device) - before) / 2**20


def measure_times(method: str, options: argparse.Namespace) -> dict[str, list[float]]:
    """Milliseconds of each step, the two in turn."""
    steps = {candidate: make(method, options) for candidate, make in MAKERS.items()}
    times: dict[str, list[float]] = {candidate: [] for candidate in MAKERS}
    for number in range(options.steps + 2):
        for candidate in sorted(MAKERS, reverse=bool(number % 2)):
            wait(options.device)
            start = time.perf_counter()
            steps[candidate]()
            wait(options.device)
            if number >= 2:
                times[candidate].append(1000 * (time.perf_counter() - start))
    return times


def rows_of(method: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    times = measure_times(method, options)
    rows = []
    for candidate, values in times.items():
        command = [sys.executable, __file__, "--one", method, candidate, *shared(options)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append({
            "method": method, "implementation": PEERS[method][0] if candidate == "peer" else candidate,
            "milliseconds": round(statistics.median(values), 2), "fastest": round(min(values), 2),
            "peak_mb": round(float(done.stdout.splitlines()[-1]), 1),
        })  # fmt: skip
    pairs = zip(times["lgrep"], times["peer"], strict=True)
    ratio = statistics.median(b / a for a, b in pairs)
    rows[0]["speedup"] = round(ratio, 3)
    print(f"{method:8s} " + "  ".join(f"{row['implementation']} {row['milliseconds']:.1f} ms {row['peak_mb']:.0f} MB"
                                     for row in rows) + f"  speed-up {ratio:.2f}", flush=True)  # fmt: skip
    return rows


def shared(options: argparse.Namespace) -> list[str]:
    names = ("anchors", "size", "backbone", "vit", "device", "threads")
    return [part for name in names for part in (f"--{name}", str(getattr(options, name)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--steps", type=int, default=15, help="timed steps of each; the median counts")
    parser.add_argument("--anchors", type=int, default=32)
    parser.add_argument("--size", type=int, default=64, help="pixels of the large views")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--vit", default="vit_tiny_patch16_224", help="backbone of MAE")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="folder for results.csv, conditions.json and README.md")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        print(measure_memory(*options.one, options))
        return
    rows = [row for method in options.methods for row in rows_of(method, options)]
    if options.out:
        write(options, rows)


def write(options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """The table, its conditions, and a page that shows both."""
    options.out.mkdir(parents=True, exist_ok=True)
    columns = ["method", "implementation", "milliseconds", "fastest", "peak_mb", "speedup"]
    with (options.out / "results.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, columns)
        writer.writeheader()
        writer.writerows(rows)
    command = " ".join(["python", "benchmarks/methods.py", *sys.argv[1:]])
    conditions = {"command": command, **provenance(),
                  **{name: getattr(options, name) for name in ("anchors", "size", "backbone", "vit", "device", "threads", "steps")}}  # fmt: skip
    (options.out / "conditions.json").write_text(json.dumps(conditions, indent=1) + "\n")
    lines = ["# Methods: time and memory of a step", "", f"`{command}`: forward, backward, AdamW, teacher and prototypes, "
             f"{options.anchors} anchors, {options.size} px, {options.device}, {options.threads} thread(s).", *NOTES, "",
             "| method | peer | ours | theirs | speed-up | memory, ours | theirs |", "|---|---|---|---|---|---|---|"]  # fmt: skip
    for mine, other in zip(rows[::2], rows[1::2], strict=True):
        lines.append(f"| `{mine['method']}` | {other['implementation']} | {mine['milliseconds']:.1f} ms | "
                     f"{other['milliseconds']:.1f} ms | {mine['speedup']:.2f} x | {mine['peak_mb']:.0f} MB | {other['peak_mb']:.0f} MB |")  # fmt: skip
    (options.out / "README.md").write_text("\n".join(lines) + "\n")


NOTES = (
    "`results.csv` has all lines, `conditions.json` machine, versions and commit. Peers are put together as lightly's own "
    "examples do",
    "(`benchmarks/methods_peers.py`), CLIP as open_clip does; head widths are those of the examples. Speed-up: the median of "
    "the ratios of",
    "neighbouring steps. SwAV and DINO have 2 large and 6 small views.",
)

if __name__ == "__main__":
    main()
