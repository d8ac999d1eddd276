"""Records of measurements: one JSON file per evaluator, model and data set, with all that defines the number."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

import lgrep
from lgrep.files import replacing, write_text

_PACKAGES = ("torch", "torchvision", "timm", "pytorch-lightning", "numpy", "scikit-learn")


def make_record(
    dataset: str,
    evaluator: str,
    settings: Mapping[str, Any],
    values: Mapping[str, float],
    model: str | Mapping[str, Any],
    weights_hash: str,
    data_hash: str,
    seed: int,
    budget: Mapping[str, Any] | None = None,
    predictions: Mapping[str, Tensor | np.ndarray[Any, Any]] | None = None,
) -> dict[str, Any]:
    """One measurement with its protocol, as a dict for `write_record`.

    Args:
        dataset: evaluation data set.
        evaluator: what was measured on it.
        settings: everything of the evaluator that defines the number (plain JSON types).
        values: metric -> value.
        model: name or path of the model, or a mapping with further facts (its key `name` is the name).
        weights_hash: `weights_hash` of the evaluated module.
        data_hash: identity of the data.
        seed: seed of the evaluation.
        budget: what training took: optimiser steps, pictures seen, FLOPs; None when unknown.
        predictions: name -> non-negative integers, one per sample, written beside the JSON.

    Returns:
        The record.
    """
    return {
        "dataset": dataset,
        "evaluator": evaluator,
        "values": dict(values),
        "settings": dict(settings),
        "model": {"name": model} if isinstance(model, str) else dict(model),
        "weights_hash": weights_hash,
        "data_hash": data_hash,
        "seed": seed,
        "budget": None if budget is None else dict(budget),
        **provenance(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "predictions": {name: compact(array) for name, array in (predictions or {}).items()},
    }


def write_record(record: Mapping[str, Any], folder: str | Path) -> Path:
    """Write a record and, when it has predictions, their `.npz` sidecar; readers never see half a file.

    The name is `MODEL.DATASET.EVALUATOR.WEIGHTS.[PROTOCOL.]sSEED.json`, with the record's `protocol` if it has one;
    measuring the same again replaces it.

    Returns:
        The JSON file.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    parts = (record["model"]["name"], record["dataset"], record["evaluator"], record["weights_hash"])
    parts += (record["protocol"],) if "protocol" in record else ()
    stem = ".".join(_slug(str(part)) for part in parts) + f".s{record['seed']}"
    plain = dict(record)
    arrays = plain.pop("predictions", {})
    plain["predictions"] = f"{stem}.npz" if arrays else None
    if arrays:
        with replacing(folder / f"{stem}.npz") as partial, partial.open("wb") as file:
            np.savez_compressed(file, **arrays)
    path = folder / f"{stem}.json"
    write_text(path, json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return path


def read_predictions(path: str | Path) -> dict[str, np.ndarray[Any, Any]]:
    """The per-sample predictions beside a record's JSON file; empty when it has none."""
    path = Path(path)
    name = json.loads(path.read_text(encoding="utf-8"))["predictions"]
    if name is None:
        return {}
    with np.load(path.parent / name, allow_pickle=False) as arrays:
        return dict(arrays)


def compact(values: Tensor | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Non-negative integers in the smallest unsigned type that holds them.

    Raises:
        ValueError: not integers, or some are negative.
    """
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if not np.issubdtype(array.dtype, np.integer) or (array.size and array.min() < 0):
        raise ValueError(f"predictions must be non-negative integers, got {array.dtype}")
    return array.astype(np.min_scalar_type(int(array.max())) if array.size else np.uint8)


def weights_hash(module: nn.Module) -> str:
    """16 hexadecimal digits over names, types, shapes and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        if isinstance(value, DTensor):  # divided among processes, all of which have to ask
            value = value.full_tensor()
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def provenance() -> dict[str, Any]:
    """Where a number comes from: `commit` (None outside a repository), `hardware` and `versions`."""
    return {"commit": git_commit(), "hardware": hardware(), "versions": versions()}


@functools.cache
def git_commit() -> str | None:
    """Commit of the repository that tracks this file, with `-dirty` when files differ; else None."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # an installed copy may lie in someone else's repository
        commit, changed = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("-dirty" if changed else "")


@functools.cache
def hardware() -> dict[str, Any]:
    """Processor, cores, threads that torch uses, and accelerator."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


@functools.cache
def versions() -> dict[str, str]:
    """Versions of the interpreter, this package and what its numbers depend on."""
    found = {"python": platform.python_version(), "lgrep": lgrep.__version__}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match.group(1) if match else platform.machine()


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")[-80:] or "model"
