"""Data sets through torchvision: downloaded when asked, or any of its classes as it is."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from lgrep.config.schema import Section
from lgrep.data.notices import shown
from lgrep.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from lgrep.errors import ConfigError, DataError, did_you_mean
from lgrep.evaluation.contract import Metric, Part
from lgrep.evaluation.datasets.listed import readable
from lgrep.evaluation.datasets.missing import MissingDataset, data_root
from lgrep.evaluation.datasets.names import templates_of
from lgrep.evaluation.datasets.splitting import PartName

_LABELS = ("targets", "labels", "_labels", "y")
_SAMPLES = ("samples", "_samples", "imgs")


class Download(Section):
    """Calls of a torchvision class that download a set.

    Attributes:
        dataset: name in `torchvision.datasets`.
        calls: arguments of each call, besides `root` and `download`.
        folder: below the root, given as `root`.
    """

    dataset: str
    calls: tuple[dict[str, Any], ...] = ({},)
    folder: str = "."


def dataset_class(name: str) -> Any:
    """A class of torchvision.datasets.

    Raises:
        ConfigError: there is none of this name.
    """
    import torchvision

    names = torchvision.datasets.__all__
    if name not in names:
        raise ConfigError(f"torchvision.datasets has no '{name}'; {did_you_mean(name, names)}")
    return getattr(torchvision.datasets, name)


def fetch(name: str, spec: Download, root: Path) -> None:
    """Download a set.

    Raises:
        MissingDataset: it could not be had.
    """
    for arguments in spec.calls:
        with _told(name):
            dataset_class(spec.dataset)(str(root / spec.folder), download=True, **arguments)


class TorchvisionPictures:
    """Pictures of a torchvision data set, by position."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, position: int) -> Image.Image:
        picture = self.data[position][0]
        if not isinstance(picture, Image.Image):
            raise DataError(f"{type(self.data).__name__} gives {type(picture).__name__} in place of a picture")
        return picture


class TorchvisionSet:
    """Any labelled class of torchvision.datasets.

    Args:
        name: of the set.
        dataset: class in torchvision.datasets.
        parts: `train`, `validation`, `test` -> arguments of the class, for example `{train: {split: train}, ...}`.
        root: its `root`; None: LGREP_DATA or ./datasets.
        download: let it download.
        templates: prompts.
        metric: what its leaderboard counts.

    Raises:
        MissingDataset: it is not there.
        ConfigError: an unknown class.
    """

    def __init__(
        self,
        name: str,
        dataset: str,
        parts: dict[PartName, dict[str, Any]],
        root: str | None = None,
        download: bool = False,
        templates: list[str] | Literal["imagenet", "imagenet_simple"] = ["a photo of a {}."],  # noqa: B006
        metric: Metric = "top1",
    ) -> None:
        self.name = name
        self.templates, whose = templates_of(templates)
        self.metric: Metric = metric
        self.mean, self.std = IMAGENET_MEAN, IMAGENET_STD
        self.notes: tuple[str, ...] = (whose, "channel statistics are ImageNet's, for encoders without their own")
        kind = dataset_class(dataset)
        folder = str(data_root(root))
        opened = {part: _open(name, kind, folder, arguments, download) for part, arguments in parts.items()}
        names = next((data.classes for data in opened.values() if hasattr(data, "classes")), ())
        self.class_names = tuple(readable(str(text)) for text in names)
        self._parts = {str(part): Part(TorchvisionPictures(data), _labels(data)) for part, data in opened.items()}
        found = max(int(part.labels.max()) + 1 for part in self._parts.values())
        self.num_classes = len(self.class_names) or found
        self.data_hash = self._hash()

    def parts(self) -> dict[str, Part]:
        return self._parts

    def _hash(self) -> str:
        """Of labels, and of a few pictures."""
        digest = hashlib.sha256(self.name.encode())
        for name, part in self._parts.items():
            digest.update(name.encode() + part.labels.numpy().tobytes())
            for position in torch.linspace(0, len(part.labels) - 1, 16).long().tolist():
                picture = part.pictures[position]
                digest.update(picture if isinstance(picture, bytes) else picture.tobytes())
        return digest.hexdigest()[:16]


def _open(name: str, kind: Any, root: str, arguments: dict[str, Any], download: bool) -> Any:
    given = {"root": root, "download": download}
    accepted = inspect.signature(kind).parameters
    with _told(name):
        return kind(**{key: value for key, value in given.items() if key in accepted}, **arguments)


@contextmanager
def _told(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise MissingDataset(
            f"{name}: torchvision says '{shown(reason)}'. Type options.{name}.download=true where there is a network"
        ) from error


def _labels(data: Any) -> Tensor:
    """Long[N], without decoding pictures where the class keeps a list."""
    for attribute in _LABELS:
        values = getattr(data, attribute, None)
        if values is not None and len(values) == len(data):
            return torch.as_tensor(values).long()
    for attribute in _SAMPLES:
        values = getattr(data, attribute, None)
        if values is not None and len(values) == len(data):
            return torch.tensor([int(label) for _, label in values])
    return torch.tensor([int(data[position][1]) for position in range(len(data))])
