"""A tiny method and data module that keep the contracts that callbacks rely on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers.logger import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lgrep.data.batch import Batch
from lgrep.data.probe import ProbeData

CLASSES, ANCHORS, VIEWS, SIZE = 3, 8, 2, 16
MEAN, STD = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1)


def class_pictures(labels: Tensor, seed: int) -> Tensor:
    """uint8 pictures whose mean colour tells the class."""
    generator = torch.Generator().manual_seed(seed)
    colours = torch.tensor([[200, 60, 60], [60, 200, 60], [60, 60, 200]])
    noise = torch.randint(-50, 50, (len(labels), 3, SIZE, SIZE), generator=generator)
    return (colours[labels][:, :, None, None] + noise).clamp(0, 255).to(torch.uint8)


class TinyBackbone(nn.Module):
    dim = 6

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, self.dim, 3, stride=2)
        self.norm = nn.BatchNorm2d(self.dim)
        self.dropout = nn.Dropout(0.3)

    def forward(self, pictures: Tensor) -> Tensor:
        features: Tensor = self.dropout(self.norm(self.conv(pictures)).relu()).mean(dim=(2, 3))
        return features


class TinyMethod(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.backbone = TinyBackbone()
            self.head = nn.Linear(TinyBackbone.dim, 4)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        features = self.backbone(torch.cat(batch.views))
        embeddings = self.head(features)
        loss = (embeddings - batch.group.flatten()[:, None] / 10).square().mean()
        self.log("train/loss", loss.detach(), batch_size=batch.num_anchors)
        return {"loss": loss, "features": features.detach(), "embeddings": embeddings.detach()}

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        torch.manual_seed(self.global_step)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05)


class TinyTable:
    captions = ["a red square", "smiling\nface \ud83d $x_{ \u0000 \U0001fae8 日本語 العربية", "x " * 400, ""]

    def caption(self, row: int) -> str:
        return self.captions[row % len(self.captions)]

    def identity(self, row: int) -> str:
        return f"designer{row % 3}/{row:05x}"

    def read(self, row: int) -> bytes:
        raise NotImplementedError


class TinyData(pl.LightningDataModule):
    def __init__(self, batches: int = 40, labelled: bool = True) -> None:
        super().__init__()
        self.batches = batches
        self.num_classes = CLASSES if labelled else 0
        self.table = TinyTable()
        self.replaced_count = 0
        self.consumed = 0
        gallery, queries = torch.arange(30) % CLASSES, torch.arange(12) % CLASSES
        self.probe = (
            ProbeData(
                class_pictures(gallery, 1), gallery, class_pictures(queries, 2), queries, ["red", "green", "blue"]
            )
            if labelled
            else None
        )

    def batch(self, index: int) -> Batch:
        row = torch.arange(ANCHORS).repeat(VIEWS, 1) + ANCHORS * index
        label = row % CLASSES
        label[:, 0] = -1
        views = [self.normalise(class_pictures(row[view] % CLASSES, 10 * index + view)) for view in range(VIEWS)]
        return Batch(views=views, row=row, group=row.clone(), label=label if self.num_classes else label * 0 - 1)

    def normalise(self, pictures: Tensor) -> Tensor:
        return (pictures.float() / 255 - MEAN) / STD

    def state_dict(self) -> dict[str, Any]:
        assert self.trainer is not None
        return {"consumed": self.trainer.global_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.consumed = int(state_dict["consumed"])

    def train_dataloader(self) -> DataLoader[Any]:
        batches: Sequence[Batch] = [self.batch(index) for index in range(self.consumed, self.batches)]
        return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


class ListLogger(Logger):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.pictures: list[tuple[str, Path, int]] = []

    @property
    def name(self) -> str:
        return "list"

    @property
    def version(self) -> int:
        return 0

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((-1 if step is None else step, dict(metrics)))

    def log_picture(self, name: str, path: Path, step: int) -> None:
        self.pictures.append((name, path, step))

    def column(self, name: str) -> dict[int, float]:
        return {step: row[name] for step, row in self.rows if name in row}


Fit = Callable[..., pl.Trainer]
