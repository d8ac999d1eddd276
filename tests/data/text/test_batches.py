"""Texts in the data module's batches, with the embedded set."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lgrep.config.compose import compose_config
from lgrep.data.batch import Batch
from lgrep.data.datamodule import PairDataModule
from lgrep.data.text import build_tokenizer
from lgrep.data.text.clip import byte_pairs
from lgrep.data.text.synonyms import load_synonyms
from lgrep.errors import DataError
from lgrep.training.fit import build_data
from lgrep.training.resolve import resolve

SIBLINGS = ("pairing=siblings", "pairing.pictures=2", "method=stablerep")


def module(*overrides: str, workers: int = 0) -> PairDataModule:
    arguments = ["data=emoji", "loader.batch_size=6", f"loader.workers={workers}", "backbone.image_size=16", *overrides]
    data = build_data(resolve(*compose_config("train", arguments)))
    trainer: Any = SimpleNamespace(max_steps=3, accumulate_grad_batches=1, global_rank=0, world_size=1)
    data.trainer = trainer
    return data


def batches(data: PairDataModule) -> list[Batch]:
    return list(data.train_dataloader())


@pytest.mark.parametrize("pairing", [("pairing=self",), SIBLINGS])
def test_texts_stand_beside_their_pictures(pairing: tuple[str, ...]) -> None:
    last = 1 if len(pairing) > 1 else 0
    views = f"text.views=[{{transform: plain}},{{transform: plain, picture: {last}}}]"
    data = module(*pairing, "text=clip", views, "text.context_length=16", "text.features=embedding")
    table, tokenizer = data.table, build_tokenizer("clip", 16)
    for batch in batches(data):
        assert batch.text is not None and batch.text_row is not None and batch.text_group is not None
        assert batch.text.shape == (2, 6, 16) and batch.text.dtype == torch.int64
        assert torch.equal(batch.text_row, batch.row[[0, last]])  # the pictures of views 0 and `last`
        for t in range(2):
            rows = batch.text_row[t].tolist()
            assert np.array_equal(batch.text[t].numpy(), tokenizer([table.caption(row) for row in rows]))
            assert batch.text_group[t].tolist() == [int(table.group[row]) for row in rows]
        stored = table.captions["embedding"].to_pylist()
        expected = [stored[int(table.group[row])] for row in batch.row[0].tolist()]
        assert batch.caption_features is not None and batch.caption_features.dtype == torch.float32
        assert torch.equal(batch.caption_features, torch.tensor(expected, dtype=torch.float32))


def test_features_come_without_tokens() -> None:
    batch = batches(module("text=features"))[0]
    assert batch.text is None and batch.text_row is None and batch.text_group is None
    assert batch.caption_features is not None and batch.caption_features.shape == (6, 384)


def test_a_column_that_is_not_there() -> None:
    with pytest.raises(DataError, match="text.features=embedding"):
        batches(module("text=features", "text.features=minilm"))


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    for a, b in zip(first, second, strict=True):
        for name in ("text", "text_row", "text_group", "row", "keys"):
            assert torch.equal(getattr(a, name), getattr(b, name)), name


def test_texts_are_the_same_in_any_worker() -> None:
    plain = batches(module(*SIBLINGS, "text=clip_rocket"))
    assert plain[0].text is not None and plain[0].text.shape == (3, 6, 77)
    assert_same(plain, batches(module(*SIBLINGS, "text=clip_rocket", workers=2)))
    other = batches(module(*SIBLINGS, "text=clip_rocket", "seed=1"))
    assert not torch.equal(plain[0].text, other[0].text)


def test_a_spawned_worker_gets_a_small_copy_that_reads_its_own_files() -> None:
    data = module("text=clip_rocket")
    data.train_dataloader()
    assert data.dataset is not None
    sent = pickle.dumps(data.dataset.texts)
    assert len(sent) < 5000  # neither the vocabulary nor the synonyms
    here = [data.dataset[0, anchor].text for anchor in range(20)]
    byte_pairs.cache_clear()
    load_synonyms.cache_clear()
    data.dataset.texts = pickle.loads(sent)
    assert np.array_equal(here, [data.dataset[0, anchor].text for anchor in range(20)])


def test_several_captions_of_a_picture() -> None:
    """The names of an emoji as a list column: each is drawn, and only those of the picture."""
    data = module("text=clip", "text.context_length=16", "pairing=self")
    table = data.table
    names = table.captions["names"]
    table.captions = table.captions.append_column("texts", names)
    tokenizer = build_tokenizer("clip", 16)
    seen: dict[int, set[tuple[int, ...]]] = {}
    data.trainer.max_steps = 40  # type: ignore[union-attr]
    for batch in batches(data):
        for group, ids in zip(batch.text_group[0].tolist(), batch.text[0].tolist(), strict=True):  # type: ignore[index]
            allowed = names[group].as_py() or [table.captions["text"][group].as_py()]
            assert tuple(ids) in {tuple(row) for row in tokenizer(allowed).tolist()}
            seen.setdefault(group, set()).add(tuple(ids))
    assert len({len(drawn) for drawn in seen.values()}) > 1  # some were seen with several
