"""The data module: exact batches from any source, pairing and views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lgrep.data.batch import Batch
from lgrep.data.dataset import Collate, ViewDataset
from lgrep.data.mixing import MixedOrder
from lgrep.data.orders import EpochOrder, RandomOrder, ShardOrder
from lgrep.data.pairings import Pairing, first_rows, relations_of
from lgrep.data.probe import ProbeData, ProbeTables, render_probe
from lgrep.data.samplers import ExactBatchSampler
from lgrep.data.sources import Source
from lgrep.data.table import Table, stored_features
from lgrep.data.text import TextViews
from lgrep.data.transforms import Transform, augmenting
from lgrep.data.views import View
from lgrep.data.workers import outlive_signals, usable_cores
from lgrep.errors import ConfigError


class PairDataModule(pl.LightningDataModule):
    """Serves training batches of V views per anchor, and probe pictures.

    Workers ship uint8 views and the parameters of their augmentation; `on_after_batch_transfer` applies
    the augmentation on the training device (training batches only). With `augment_in_workers` they ship finished
    views.

    Args:
        source: opens the tables.
        pairing: chooses the pictures of an anchor.
        views: V views.
        transforms: by name.
        batch_size: anchors per batch over all processes.
        seed: of the run.
        workers: loading processes per training process; None: the cores that training leaves free, at most 8.
        cache_bytes: of decoded pictures that the loading processes of a training process keep together.
        memory_format: of the views that the method gets.
        chunk: pictures of a view that the backbone sees at a time; None: all.
        texts: makes the text views; None: no text.
        scaled_decoding: JPEG files at 1/2, 1/4 or 1/8 of their size where every crop keeps its view's pixels.
        augment_in_workers: the whole recipe in the loading processes.
        order: of an epoch: `random`, or `shards` for archives that are slow to read at random places.
    """

    def __init__(
        self,
        source: Source,
        pairing: Pairing,
        views: Sequence[View],
        transforms: Mapping[str, Transform],
        batch_size: int,
        seed: int = 0,
        workers: int | None = None,
        cache_bytes: int = 0,
        memory_format: torch.memory_format = torch.contiguous_format,
        chunk: int | None = None,
        texts: TextViews | None = None,
        order: Literal["random", "shards"] = "random",
        scaled_decoding: bool = False,
        augment_in_workers: bool = False,
    ) -> None:
        super().__init__()
        self.source = source
        self.pairing = pairing
        self.views = list(views)
        self.transforms = dict(transforms)
        self.batch_size = batch_size
        self.seed = seed
        self.workers = workers if workers is not None else min(8, usable_cores() - 1)
        self.cache_bytes = cache_bytes
        self.memory_format = memory_format
        self.chunk = chunk or 0
        self.texts = texts
        self.order = order
        self.scaled_decoding = scaled_decoding
        self.augment_in_workers = augment_in_workers
        self.replaced_count = 0
        self.dataset: ViewDataset | None = None
        self._consumed = 0

    @cached_property
    def table(self) -> Table:
        """The training pictures."""
        return self.source.training()

    @cached_property
    def anchors(self) -> Any:
        """Anchor numbers of one epoch."""
        return self.pairing.anchors(self.table)

    @cached_property
    def probe_tables(self) -> ProbeTables | None:
        """Labelled pictures for probes, or None without labels."""
        return self.source.probe()

    @cached_property
    def probe(self) -> ProbeData | None:
        """Rendered probe pictures, or None without labels."""
        return None if self.probe_tables is None else render_probe(self.probe_tables, self.views[0].size)

    @property
    def num_classes(self) -> int:
        """Classes of `Batch.label`; 0 without labels."""
        if self.probe_tables is not None:
            return len(self.probe_tables.class_names)
        return int(self.table.column("label").max(initial=-1)) + 1 if self.table.has("label") else 0

    @property
    def batches_per_epoch(self) -> int:
        """Batches that one pass over the anchors takes."""
        return len(self.anchors) // self.batch_size

    def epoch_order(self) -> EpochOrder:
        """The order of every epoch's anchors.

        Raises:
            ConfigError: `loader.order=shards` for pictures that are not in archives, or together with `data.shares`.
        """
        mixture = getattr(self.source, "mixture", None)
        if mixture is not None:
            if self.order == "shards":
                raise ConfigError(
                    "loader.order=shards cannot keep data.shares. Type loader.order=random, or data.shares=null"
                )
            parts = mixture.split(self.table, self.anchors, first_rows(self.pairing, self.table, self.anchors))
            return MixedOrder(parts, mixture.shares, self.seed)
        if self.order == "random":
            return RandomOrder(self.anchors, self.seed)
        shard = getattr(self.table.store, "shard", None)
        if shard is None:
            raise ConfigError(
                f"loader.order=shards: the pictures of {self.table.name} are not in archives. Type loader.order=random"
            )
        return ShardOrder(self.anchors, shard[first_rows(self.pairing, self.table, self.anchors)], self.seed)

    def state_dict(self) -> dict[str, Any]:
        """The position in the stream: batches consumed, the same on all ranks."""
        assert self.trainer is not None
        return {"consumed": self.trainer.global_step * self.trainer.accumulate_grad_batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._consumed = int(state_dict["consumed"])

    def train_dataloader(self) -> DataLoader[Any]:
        assert self.trainer is not None
        sampler = ExactBatchSampler(
            self.epoch_order(),
            self.batch_size,
            total_batches=self.trainer.max_steps * self.trainer.accumulate_grad_batches,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            consumed=self._consumed,
        )
        table, texts = self.table, self.texts
        if texts is not None:
            texts.load()  # before the loading processes start, which then share it
        self.dataset = ViewDataset(
            table,
            self.pairing,
            self.views,
            self.transforms,
            self.seed,
            self.cache_bytes,
            texts,
            self.scaled_decoding,
            self.augment_in_workers,
        )
        features = None if texts is None else texts.features
        if features is not None:
            stored_features(table, features)  # what is missing is said here, not in a worker
        return DataLoader(
            self.dataset,
            batch_sampler=sampler,
            collate_fn=Collate(
                self.views,
                self.transforms,
                table,
                self.chunk,
                features,
                relations_of(self.pairing, table),
            ),
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            worker_init_fn=outlive_signals,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # the loader must not draw from the global generator
        )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if isinstance(batch, Batch) and self.trainer is not None and self.trainer.training:
            return self.augment(batch, next(self.trainer.lightning_module.parameters()).dtype)
        return batch

    def augment(self, batch: Batch, dtype: torch.dtype = torch.float32) -> Batch:
        """Replace the workers' views by augmented, normalised views on the same device.

        The augmentation itself is always computed in float32. A batch in pieces keeps the workers' views; each piece
        is augmented when the backbone asks for it. Views that the workers finished only take the type asked for.
        """
        if batch.chunk:
            batch.render = partial(self._render, dtype=dtype)
        else:
            batch.views = [self._render(batch, view, 0, dtype) for view in range(batch.num_views)]
        return batch

    def _render(self, batch: Batch, view: int, number: int, dtype: torch.dtype) -> Tensor:
        start = number * batch.chunk
        pictures = batch.views[view][start : start + batch.chunk] if batch.chunk else batch.views[view]
        if self.augment_in_workers:
            return pictures.to(dtype, memory_format=self.memory_format)
        params = batch.params[view * batch.num_pieces + number].tensors
        with augmenting(pictures.device):
            augmented = self.transforms[self.views[view].transform].device(pictures, params)
            return augmented.to(dtype, memory_format=self.memory_format)

    def normalise(self, pictures: Tensor) -> Tensor:
        """Evaluation normalisation of uint8 [B, 3, H, W] to float32, with the first view's constants."""
        transform = self.transforms[self.views[0].transform]
        mean, std = (
            torch.tensor(values, device=pictures.device).view(3, 1, 1) for values in (transform.mean, transform.std)
        )
        return (pictures.float() / 255 - mean) / std
