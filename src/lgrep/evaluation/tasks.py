"""A model on a data set, its features computed once and kept in the feature cache."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from lgrep.evaluation.cache import FeatureCache
from lgrep.evaluation.contract import EvaluationSet, Part, Subject, Task
from lgrep.evaluation.features import Pictures, Transform, extract_features, feature_batches

# what decodes, transforms and runs networks
_PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "open_clip_torch",
    "transformers",
    "pillow",
    "numpy",
    "opencv-python-headless",
)
_SAMPLED = 64  # pictures whose content tells two parts of a data set apart
_AGREEMENT = 2e-2  # relative; other processors and batch sizes differ by far less, another model by far more


@dataclass(frozen=True)
class Resources:
    """What measuring may use.

    Attributes:
        device: where encoders run.
        batch_size: pictures per forward pass.
        workers: processes that decode.
        cache: of features; None: nothing is kept.
        progress: show a bar during long passes.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    batch_size: int = 256
    workers: int = 0
    cache: FeatureCache | None = None
    progress: bool = True


def make_task(subject: Subject, dataset: EvaluationSet, resources: Resources, seed: int = 0) -> Task:
    """The task of measuring a model on a data set."""
    features = _Features(subject, dataset, resources)

    def features_with(transform: Transform) -> Callable[[str], Tensor]:
        return _Features(dataclasses.replace(subject, transform=transform), dataset, resources).of

    about = (seed, resources.device, resources.batch_size, resources.workers)
    return Task(subject, dataset, features.of, *about, features_with=features_with, features_from=features.kept_or_made)


class _Features:
    """Features of the parts of a data set, one pass for each pool."""

    def __init__(self, subject: Subject, dataset: EvaluationSet, resources: Resources) -> None:
        self.subject, self.dataset, self.resources = subject, dataset, resources
        self._known: dict[int, Tensor | Exception] = {}  # by the identity of the pictures, which `dataset` keeps alive

    def of(self, part: str) -> Tensor:
        """float32 [N, D] of a part."""
        asked: Part = self.dataset.parts()[part]
        if asked.pool is None or asked.positions is None:
            return self._all(asked.pictures)
        return self._all(asked.pool)[asked.positions]

    def _all(self, pictures: Pictures) -> Tensor:
        known = self._known.get(id(pictures))
        if known is None:
            try:
                known = self.kept_or_made(pictures, self.dataset.data_hash)
            except Exception as error:
                known = error  # the next evaluator gets the same answer without another pass
            self._known[id(pictures)] = known
        if isinstance(known, Exception):
            raise known
        return known

    def kept_or_made(self, pictures: Pictures, data: str) -> Tensor:
        """float32 [N, D] of any pictures, from the cache or one pass; `data` tells their set from others."""
        resources, subject = self.resources, self.subject
        arguments = (resources.batch_size, resources.device, resources.workers)
        text = f"{subject.name} on {self.dataset.name}" if resources.progress else None
        make = functools.partial(
            feature_batches, subject.encoder, pictures, subject.transform, *arguments, progress=text
        )
        about = None
        if resources.cache is not None:
            about = describe_features(subject, data, pictures, resources.device)
        if resources.cache is None or about is None:
            return torch.cat(list(make()))
        return resources.cache.features(about, len(pictures), make, _check(subject, pictures, resources.device))


def _check(subject: Subject, pictures: Pictures, device: torch.device) -> Callable[[Tensor], bool]:
    """Whether two pictures still have the features that were kept: code that no version tells apart may have changed."""

    def agrees(features: Tensor) -> bool:
        rows = sorted({0, len(pictures) // 2})
        now = extract_features(subject.encoder, [pictures[row] for row in rows], subject.transform, device=device)
        if now.shape[1] != features.shape[1]:
            return False
        distance, size = (features[rows] - now).norm(dim=1), now.norm(dim=1)
        return bool((distance <= _AGREEMENT * size + 1e-6).all())

    return agrees


def describe_features(
    subject: Subject, data_hash: str, pictures: Pictures, device: torch.device
) -> dict[str, Any] | None:
    """All that defines the features of some pictures; None where something cannot be told (a lambda as transform)."""
    transform = describe_transform(subject.transform)
    if transform is None:
        return None
    return {
        "weights": subject.weights_hash,
        "network": describe_network(subject.encoder),
        "data": data_hash,
        "pictures": fingerprint(pictures),
        "transform": transform,
        "device": device.type,
        "versions": library_versions(),
    }


def describe_network(encoder: nn.Module) -> str:
    """Hash of what the weights do not say: the layers with their settings, and buffers that checkpoints leave out."""
    about = [type(encoder).__qualname__, getattr(encoder, "name", None), getattr(encoder, "options", None)]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=repr).encode())
    digest.update(re.sub(r" at 0x[0-9a-f]+", "", repr(encoder)).encode())
    kept = encoder.state_dict().keys()
    for name, value in encoder.named_buffers():
        if name not in kept:
            digest.update(
                name.encode() + value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
            )
    return digest.hexdigest()[:16]


def describe_transform(transform: Transform) -> str | None:
    """Name and settings of a transform; None for one that does not show its settings."""
    if dataclasses.is_dataclass(transform) and not isinstance(transform, type):
        settings = json.dumps(dataclasses.asdict(transform), sort_keys=True, default=repr)
        text = f"{type(transform).__module__}.{type(transform).__qualname__}{settings}"
    else:
        text = f"{type(transform).__module__}.{transform!r}"
    return None if " at 0x" in text else text


def fingerprint(pictures: Pictures) -> str:
    """Hash of the number of pictures and the content of some of them, spread evenly."""
    digest = hashlib.sha256(str(len(pictures)).encode())
    for position in np.unique(np.linspace(0, len(pictures) - 1, _SAMPLED).astype(int)) if len(pictures) else ():
        digest.update(_content(pictures, int(position)))
    return digest.hexdigest()[:16]


def _content(pictures: Pictures, position: int) -> bytes:
    try:
        item = pictures[position]
        if isinstance(item, Image.Image):
            return f"{item.mode}{item.size}".encode() + item.tobytes()
        return hashlib.sha256(item).digest()
    except (OSError, ValueError) as error:  # the pass itself names it
        return f"{type(error).__name__} {error}".encode()


@functools.cache
def library_versions(packages: Sequence[str] = _PACKAGES) -> dict[str, str]:
    """Versions of the installed packages that features depend on."""
    return dict(_versions(packages))


def _versions(packages: Sequence[str]) -> Iterator[tuple[str, str]]:
    for package in packages:
        try:
            yield package, metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
