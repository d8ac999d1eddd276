"""CLIP scores of generated pictures: how well they fit their captions (Hessel et al. 2021, arXiv 2104.08718)."""

from __future__ import annotations

import re
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image

from lgrep.errors import ConfigError, did_you_mean
from lgrep.generation.claims import Claims
from lgrep.generation.painter import prompt
from lgrep.generation.plan import WORK, Shard, durable
from lgrep.generation.storage import Storage, read_picture
from lgrep.records import weights_hash

_BATCH = 64


class ClipScores:
    """Cosine similarities of pictures and captions under a CLIP of open_clip, kept beside the shards.

    Args:
        name: `open_clip/MODEL/TAG` (public weights, downloaded once) or `open_clip/MODEL/FILE` (a safetensors or
            weights-only file).
        device: where it runs.

    Raises:
        ConfigError: open_clip is missing, or has no such model or weights.
    """

    def __init__(self, name: str, device: str = "cpu") -> None:
        self.name, self.device = name, device
        open_clip = _open_clip()
        library, _, rest = name.partition("/")
        model, _, tag = rest.partition("/")
        known = list(open_clip.list_models())
        if library != "open_clip" or not tag or model not in known:
            hint = did_you_mean(model, known) if library == "open_clip" and model not in known else ""
            raise ConfigError(
                f"clip_model={name}: it is open_clip/MODEL/TAG with public weights, or open_clip/MODEL/FILE, e.g. "
                f"open_clip/ViT-B-32/laion2b_s34b_b79k. {hint}".strip()
            )
        try:
            self.model, _, self.transform = open_clip.create_model_and_transforms(
                model, pretrained=tag, weights_only=True
            )
        except Exception as error:  # the client has many kinds of errors of several libraries
            raise ConfigError(
                f"clip_model={name}: no such weights here ({str(error).strip().splitlines()[0][:160]}). Download them where "
                f"there is a network, copy the file here and type clip_model=open_clip/{model}/FILE, or clip_model=null"
            ) from error
        self.model = self.model.eval().to(device)
        self.tokenizer = open_clip.get_tokenizer(model)
        self.key = f"{re.sub(r'[^A-Za-z0-9]+', '-', model)}-{weights_hash(self.model)}"

    def fill(self, storage: Storage, shards: list[Shard], captions: pa.Table, claims: Claims) -> None:
        """Score the pictures of every shard that has no scores yet, beside other processes."""
        (storage.folder / WORK / "scores").mkdir(parents=True, exist_ok=True)
        for shard in shards:
            if self.read(storage, shard) is None:
                with claims.take(f"score-{shard.name}"):  # who gets no claim scores, too: the end needs all of them
                    if self.read(storage, shard) is None:
                        self._write(storage, shard, self._score(storage, shard, captions))

    def read(self, storage: Storage, shard: Shard) -> NDArray[np.float32] | None:
        """Scores [captions of the shard]; NaN where no picture is stored, None when they are not there."""
        path, record = self._path(storage, shard), storage.finished(shard)
        try:
            with path.open("rb") as file:
                made_for = file.read(64).decode("ascii")
                values = np.frombuffer(file.read(), np.float32)
        except (OSError, UnicodeDecodeError, ValueError):
            return None
        right = record is not None and made_for == record.sha256 and len(values) == len(shard.captions)
        return values if right else None

    def _path(self, storage: Storage, shard: Shard) -> Any:
        return storage.folder / WORK / "scores" / f"{shard.name}.{self.key}"

    def _write(self, storage: Storage, shard: Shard, values: NDArray[np.float32]) -> None:
        record = storage.finished(shard)
        assert record is not None
        with durable(self._path(storage, shard), storage.folder) as partial:
            partial.write_bytes(record.sha256.encode("ascii") + values.tobytes())

    def _score(self, storage: Storage, shard: Shard, captions: pa.Table) -> NDArray[np.float32]:
        rows, tar = storage.rows(shard), storage.tar(shard)
        size, offset = rows["size"].to_pylist(), rows["offset"].to_pylist()
        texts = captions["text"].slice(shard.captions.start, len(shard.captions)).to_pylist()
        scores = np.full(len(size), np.nan, np.float32)
        stored = [row for row, length in enumerate(size) if length]
        for start in range(0, len(stored), _BATCH):
            part = stored[start : start + _BATCH]
            pictures = [Image.open(BytesIO(read_picture(tar, offset[row], size[row]))).convert("RGB") for row in part]
            scores[part] = self(pictures, [texts[row] for row in part])
        return scores

    def __call__(self, pictures: list[Image.Image], texts: list[str]) -> NDArray[np.float32]:
        """Cosine similarities [N] of pictures and their captions."""
        with torch.inference_mode():
            seen = torch.stack([self.transform(picture) for picture in pictures]).to(self.device)
            image = self.model.encode_image(seen, normalize=True)
            text = self.model.encode_text(
                self.tokenizer([prompt(text) for text in texts]).to(self.device), normalize=True
            )
            found: NDArray[np.float32] = (image * text).sum(1).float().cpu().numpy()
        return found


def _open_clip() -> Any:
    try:
        import open_clip
    except ImportError as error:
        raise ConfigError("clip_model=...: CLIP scores need the extra: pip install 'lgrep[clip]'") from error
    return open_clip
