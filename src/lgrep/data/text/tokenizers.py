"""Tokenisers by name: one function from a string to what turns captions into token ids."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lgrep.data.text.clip import CONTEXT, END, START, VOCABULARY, byte_pairs
from lgrep.errors import ConfigError, DataError, did_you_mean

Builder = Callable[[str, int | None], "Tokenizer"]


class Tokenizer(ABC):
    """Captions -> token ids of one length. Making one reads nothing; the first use (or `load`) does, once per process.

    A copy sent to another process is sent unloaded. Text towers are built from the attributes.

    Attributes:
        name: registry name that rebuilds it.
        context_length: L, ids per caption.
        vocab_size: ids are below it.
        pad_id: fills a caption up to L.
        end_id: ends a caption; None: there is no such id.
    """

    name: str
    context_length: int
    vocab_size: int
    pad_id: int
    end_id: int | None

    def load(self) -> None:
        """Read the vocabulary now, so that what is missing is said before training.

        Raises:
            DataError: it is neither on this machine nor can it be downloaded.
        """
        self(["a"])

    @abstractmethod
    def __call__(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Ids [N, L] of N captions: cut after L (with the last special ids in place), filled up with `pad_id`."""


class ClipTokenizer(Tokenizer):
    """CLIP's: start, ids, end; cut to the context with the end forced; zeros after it.

    Args:
        context_length: L.
        name: see `Tokenizer`.

    >>> ClipTokenizer(8)(["a photo of a dog", "!"]).tolist()
    [[49406, 320, 1125, 539, 320, 1929, 49407, 0], [49406, 256, 49407, 0, 0, 0, 0, 0]]
    """

    vocab_size = VOCABULARY
    pad_id = 0
    end_id = END

    def __init__(self, context_length: int = CONTEXT, name: str = "clip") -> None:
        if context_length < 3:
            raise ConfigError(f"text.context_length={context_length}: at least 3 (start, one id, end)")
        if find_spec("open_clip") is None:
            raise ConfigError(
                f"text.tokenizer={name} needs the extra: pip install 'lgrep[clip]' (open_clip ships CLIP's vocabulary)"
            )
        self.name = name
        self.context_length = context_length

    def __call__(self, texts: Sequence[str]) -> NDArray[np.int64]:
        encode, room = byte_pairs().encode, self.context_length - 2
        tokens = np.zeros((len(texts), self.context_length), dtype=np.int64)
        for row, text in zip(tokens, texts, strict=True):
            ids = encode(text, room)
            row[: len(ids) + 2] = [START, *ids, END]
        return tokens


class LoadedTokenizer(Tokenizer):
    """A tokeniser of another library, made when it is first needed, as that may read or download files."""

    def __init__(self, name: str, context_length: int | None) -> None:
        self.name = name
        self._asked = context_length
        self._tool: Any = None

    @property
    def tool(self) -> Any:
        """The library's tokeniser."""
        if self._tool is None:
            try:
                self._tool = self._open()
            except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
                reason = str(error).strip().splitlines() or [type(error).__name__]
                raise DataError(
                    f"text.tokenizer={self.name} cannot be loaded: {reason[0]}. It is downloaded when first used: load it "
                    "once with a network, give the folder of a saved one (text.tokenizer=hf:FOLDER), or type "
                    "text.tokenizer=clip, which needs none"
                ) from error
        return self._tool

    @abstractmethod
    def _open(self) -> Any:
        """Make the library's tokeniser."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tool": None}


class HuggingFaceTokenizer(LoadedTokenizer):
    """A tokeniser of `transformers`: its own special ids and cut; filled up on the right.

    Code that a repository brings along is never run.

    Args:
        name: `hf:<repository or folder>`.
        context_length: L; None: what the tokeniser declares.
    """

    def __init__(self, name: str, context_length: int | None = None) -> None:
        super().__init__(name, context_length)
        if find_spec("transformers") is None:
            raise ConfigError(f"text.tokenizer={name} needs the extra: pip install 'lgrep[text]'")

    def _open(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.name.partition(":")[2])

    @property
    def context_length(self) -> int:  # type: ignore[override]
        """L."""
        if self._asked is not None:
            return self._asked
        declared = int(min(self.tool.model_max_length, 1 << 20))
        if declared == 1 << 20:
            raise ConfigError(f"text.tokenizer={self.name} declares no length. Type text.context_length=77")
        return declared

    @property
    def vocab_size(self) -> int:  # type: ignore[override]
        """Ids are below it; added tokens count."""
        return len(self.tool)

    @property
    def pad_id(self) -> int:  # type: ignore[override]
        """The padding's id, else the end's, else 0."""
        pad = self.tool.pad_token_id
        return int(pad if pad is not None else self.end_id or 0)

    @property
    def end_id(self) -> int | None:  # type: ignore[override]
        """The id of the end, or of the separator that ends a sentence."""
        end = self.tool.eos_token_id if self.tool.eos_token_id is not None else self.tool.sep_token_id
        return None if end is None else int(end)

    def __call__(self, texts: Sequence[str]) -> NDArray[np.int64]:
        tokens = np.full((len(texts), self.context_length), self.pad_id, dtype=np.int64)
        if texts:
            encoded = self.tool(list(texts), truncation=True, max_length=self.context_length)["input_ids"]
            for row, ids in zip(tokens, encoded, strict=True):
                row[: len(ids)] = ids
        return tokens


class OpenClipTokenizer(LoadedTokenizer):
    """The tokeniser that open_clip configures for a model; most but CLIP's own are downloaded when first used.

    Args:
        name: `open_clip:<model>`.
        context_length: L; None: the model's.
    """

    def __init__(self, name: str, context_length: int | None = None) -> None:
        super().__init__(name, context_length)
        if find_spec("open_clip") is None:
            raise ConfigError(f"text.tokenizer={name} needs the extra: pip install 'lgrep[clip]'")
        import open_clip

        self.model = name.partition(":")[2]
        known = open_clip.list_models()
        if self.model not in known:
            nearest = did_you_mean(self.model, known)
            hint = nearest if nearest.startswith("did") else "for example ViT-B-32 or ViT-B-16-SigLIP"
            raise ConfigError(f"text.tokenizer={name}: open_clip has no model '{self.model}'; {hint}")
        text = open_clip.get_model_config(self.model)["text_cfg"]
        self.context_length = context_length or int(text.get("context_length", CONTEXT))

    def _open(self) -> Any:
        import open_clip

        return open_clip.get_tokenizer(self.model, context_length=self.context_length)

    @property
    def vocab_size(self) -> int:  # type: ignore[override]
        """Ids are below it."""
        inner = getattr(self.tool, "tokenizer", None)
        return int(self.tool.vocab_size) if inner is None else len(inner)

    @property
    def pad_id(self) -> int:  # type: ignore[override]
        """Zero for CLIP's vocabulary."""
        inner = getattr(self.tool, "tokenizer", None)
        return 0 if inner is None or inner.pad_token_id is None else int(inner.pad_token_id)

    @property
    def end_id(self) -> int | None:  # type: ignore[override]
        """The id of the end, or of the separator that ends a sentence."""
        inner = getattr(self.tool, "tokenizer", None)
        if inner is None:
            return int(self.tool.eot_token_id)
        end = inner.eos_token_id if inner.eos_token_id is not None else inner.sep_token_id
        return None if end is None else int(end)

    def __call__(self, texts: Sequence[str]) -> NDArray[np.int64]:
        if not texts:
            return np.zeros((0, self.context_length), dtype=np.int64)
        tokens: NDArray[np.int64] = self.tool(list(texts)).numpy().astype(np.int64)
        return tokens


def _clip(name: str, context_length: int | None) -> Tokenizer:
    asked = name.partition(":")[2]
    if asked and not asked.isdecimal():
        raise ConfigError(f"text.tokenizer={name}: after clip: comes a length. Type text.tokenizer=clip:32")
    if asked and context_length not in (None, int(asked)):
        raise ConfigError(
            f"text.tokenizer={name} and text.context_length={context_length} differ. Type text.context_length=null"
        )
    return ClipTokenizer(int(asked or context_length or CONTEXT), name)


TOKENIZERS: dict[str, Builder] = {"clip": _clip, "open_clip": OpenClipTokenizer, "hf": HuggingFaceTokenizer}


def register_tokenizer(prefix: str, builder: Builder) -> None:
    """Make `prefix` and `prefix:...` names of tokenisers; `builder` gets the whole name and the length asked for.

    Raises:
        ConfigError: the name is taken.
    """
    if prefix in TOKENIZERS and TOKENIZERS[prefix] is not builder:
        raise ConfigError(f"there is a tokeniser '{prefix}' already; take another name")
    TOKENIZERS[prefix] = builder


def build_tokenizer(name: str, context_length: int | None = None) -> Tokenizer:
    """The tokeniser of a name; nothing is read yet.

    Args:
        name: `clip` (77 ids), `clip:32` (another length), `open_clip:<model>`, `hf:<repository or folder>`, or what
            `register_tokenizer` added.
        context_length: L; None: the tokeniser's own.

    Raises:
        ConfigError: an unknown name, or a package that is missing.
    """
    prefix, _, rest = name.partition(":")
    if prefix not in TOKENIZERS:
        raise ConfigError(
            f"text.tokenizer={name} is not known; {did_you_mean(prefix, TOKENIZERS)} Allowed: clip, clip:LENGTH, "
            "open_clip:MODEL, hf:REPOSITORY or hf:FOLDER"
        )
    if prefix in ("open_clip", "hf") and not rest:
        example = {"open_clip": "open_clip:ViT-B-32", "hf": "hf:bert-base-uncased"}[prefix]
        raise ConfigError(f"text.tokenizer={name} names no model. Type text.tokenizer={example}")
    return TOKENIZERS[prefix](name, context_length)
