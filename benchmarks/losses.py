"""Time and extra memory of contrastive losses, forward and backward, against what one would use instead.

    python benchmarks/losses.py --out benchmarks/losses            everything (about 20 minutes on 2 cores)
    python benchmarks/losses.py --sizes 1024 --dims 256            part of it

Every measurement runs in a process of its own: extra memory is how far the peak of the resident memory (CPU) or of the
allocator (CUDA) rises above what it is with the embeddings and their gradients in place. N counts the rows of
the similarity matrix; 2-view losses have N / 2 pictures. A measurement that would not fit is left out.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid, normalize

from lgrep import losses
from lgrep.records import provenance

TEMPERATURE = 0.1
VIEWS = 4  # positives of the multi-positive rows
Loss = Callable[[Tensor, Tensor], Tensor]


def labels_of(z: Tensor, views: int) -> Tensor:
    return torch.arange(len(z) // views, device=z.device).repeat(views)


def dense_nt_xent(z: Tensor, _: Tensor) -> Tensor:
    unit = normalize(z.float(), dim=1)
    logits = unit @ unit.T / TEMPERATURE
    logits.fill_diagonal_(-torch.inf)
    return cross_entropy(logits, torch.arange(len(z), device=z.device).roll(len(z) // 2))


def dense_multi_positive(z: Tensor, _: Tensor) -> Tensor:
    labels, unit = labels_of(z, VIEWS), normalize(z.float(), dim=1)
    itself = torch.eye(len(z), device=z.device, dtype=torch.bool)
    positive = (labels[:, None] == labels).logical_and(~itself).float()
    logits = (unit @ unit.T / TEMPERATURE).masked_fill(itself, -1e9)
    return -(positive / positive.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()


def dense_clip(z: Tensor, w: Tensor) -> Tensor:
    logits = normalize(z.float(), dim=1) @ normalize(w.float(), dim=1).T / TEMPERATURE
    target = torch.arange(len(z), device=z.device)
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2


def dense_siglip(z: Tensor, w: Tensor) -> Tensor:
    logits = normalize(z.float(), dim=1) @ normalize(w.float(), dim=1).T * 10.0 - 10.0
    signs = 2 * torch.eye(len(z), device=z.device) - 1
    return -logsigmoid(signs * logits).sum() / len(z)


def lightly_nt_xent() -> Loss:
    from lightly.loss import NTXentLoss

    loss = NTXentLoss(temperature=TEMPERATURE)
    return lambda z, _: loss(*z.chunk(2))


def metric_learning_supcon() -> Loss:
    from pytorch_metric_learning.losses import SupConLoss

    loss = SupConLoss(temperature=TEMPERATURE)
    return lambda z, _: loss(z, labels_of(z, VIEWS))


def open_clip_clip() -> Loss:
    from open_clip.loss import ClipLoss

    loss = ClipLoss()
    return lambda z, w: loss(normalize(z, dim=1), normalize(w, dim=1), 1 / TEMPERATURE)


def open_clip_siglip() -> Loss:
    from open_clip.loss import SigLipLoss

    loss = SigLipLoss()
    return lambda z, w: loss(normalize(z, dim=1), normalize(w, dim=1), 10.0, -10.0)


# loss -> implementation -> maker of a function of two embeddings [N, D]
CANDIDATES: dict[str, dict[str, Callable[[], Loss]]] = {
    "nt_xent": {
        "lgrep": lambda: lambda z, _: losses.nt_xent(*z.chunk(2), TEMPERATURE),
        "dense": lambda: dense_nt_xent,
        "lightly NTXentLoss": lightly_nt_xent,
    },
    "multi_positive": {
        "lgrep": lambda: lambda z, _: losses.multi_positive_contrastive(z, labels_of(z, VIEWS), TEMPERATURE),
        "dense": lambda: dense_multi_positive,
        "pytorch-metric-learning SupConLoss": metric_learning_supcon,
    },
    "clip": {
        "lgrep": lambda: lambda z, w: losses.clip_contrastive(z, w, 1 / TEMPERATURE),
        "dense": lambda: dense_clip,
        "open_clip ClipLoss": open_clip_clip,
    },
    "siglip": {
        "lgrep": lambda: lambda z, w: losses.siglip(z, w, 10.0, -10.0),
        "dense": lambda: dense_siglip,
        "open_clip SigLipLoss": open_clip_siglip,
    },
}
MATRICES = {"lgrep": 0, "pytorch-metric-learning SupConLoss": 14}  # N x N float32 at once, about; 6 unless listed


def measure(loss: str, candidate: str, n: int, d: int, device: str) -> dict[str, float]:
    """Median milliseconds of forward + backward, the value, and extra megabytes, in this process."""
    function = CANDIDATES[loss][candidate]()
    dtype = torch.bfloat16 if device == "cuda" else torch.float32

    def step(rows: int) -> float:
        generator = torch.Generator().manual_seed(0)
        z, w = (torch.randn(rows, d, generator=generator).to(device, dtype).requires_grad_() for _ in range(2))
        z.grad, w.grad = torch.zeros_like(z), torch.zeros_like(w)
        before = memory(device)
        start = clock(device)
        value = function(z, w)
        value.backward()
        milliseconds = 1000 * (clock(device) - start)
        peaks.append((memory(device) - before) / 2**20)
        values.append(float(value.detach()))
        return milliseconds

    peaks: list[float] = []
    values: list[float] = []
    step(640)  # libraries load and buffers are made on the first pass over blocks
    first = step(n)
    extra = peaks[-1]  # the peak of a process never falls, so the first pass tells
    repeats = 3 if first > 3000 else 7
    times = sorted(step(n) for _ in range(repeats))
    return {"milliseconds": times[repeats // 2], "fastest": times[0], "extra_mb": extra, "value": values[-1]}


def memory(device: str) -> float:
    """Highest number of bytes that this process has held so far."""
    if device == "cuda":
        return float(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def clock(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def jobs(options: argparse.Namespace) -> Iterator[tuple[str, str, int, int]]:
    for n in options.sizes:
        for d in options.dims:
            if d != 256 and n != 8192 and len(options.sizes) > 1:
                continue
            for loss, candidates in CANDIDATES.items():
                for candidate in candidates:
                    if MATRICES.get(candidate, 6) * n * n * 4 <= options.limit_gb * 2**30:
                        yield loss, candidate, n, d


def run_all(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure everything, each in a process of its own, and print a line for each."""
    rows = []
    for loss, candidate, n, d in jobs(options):
        command = [sys.executable, __file__, "--one", loss, candidate, str(n), str(d), "--device", options.device,
                   "--threads", str(options.threads)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        result = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}
        if not result:
            print(f"{loss} {candidate} N={n} D={d}: failed: {(done.stderr.splitlines() or ['no message'])[-1]}")
        row = {"loss": loss, "implementation": candidate, "N": n, "D": d, **result}
        rows.append(row)
        if result:
            print(f"{loss:15s} {candidate:35s} N={n:6d} D={d:4d} {result['milliseconds']:10.1f} ms "
                  f"{result['extra_mb']:9.1f} MB extra  value {result['value']:.6f}", flush=True)  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 2048, 4096, 8192, 16384, 32768])
    parser.add_argument("--dims", type=int, nargs="+", default=[256, 128, 512])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--limit-gb", type=float, default=16.0, help="leave out what would take more memory")
    parser.add_argument("--out", type=Path, help="folder for results.csv and conditions.json")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        loss, candidate, n, d = options.one
        print(json.dumps(measure(loss, candidate, int(n), int(d), options.device)))
        return
    rows = run_all(options)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        with (options.out / "results.csv").open("w", newline="") as handle:
            writer = csv.DictWriter(
                handle, ["loss", "implementation", "N", "D", "milliseconds", "fastest", "extra_mb", "value"]
            )
            writer.writeheader()
            writer.writerows(rows)
        conditions = {"command": " ".join(["python", "benchmarks/losses.py", *sys.argv[1:]]), **provenance(),
                      "threads": options.threads, "input": "bfloat16" if options.device == "cuda" else "float32"}  # fmt: skip
        (options.out / "conditions.json").write_text(json.dumps(conditions, indent=1) + "\n")


if __name__ == "__main__":
    main()
