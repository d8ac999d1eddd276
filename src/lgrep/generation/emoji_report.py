"""How good the emoji generator is, and how much it copies: the numbers and pictures of its model card."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize
from torchmetrics.image.kid import poly_mmd

from lgrep.data.emoji import held_out_designer
from lgrep.generation.emoji_drawings import DESIGNERS, Drawings, drawings, to_float
from lgrep.generation.emoji_pipeline import EmojiPipeline
from lgrep.mining.encoders.pictures import packaged_encoder

Array = NDArray[np.float64]
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95)
_FAMILY = {"fluent3d": "fluent", "fluentflat": "fluent"}  # one design drawn twice
_SIDE = 128  # px at which the network sees the pictures


@dataclass(frozen=True)
class Drawn:
    """Pictures of captions.

    Attributes:
        pictures: [captions x each, 3, H, W] in [-1, 1], those of a caption together.
        caption: Long [captions x each], rows of the captions.
        features: [captions x each, D], unit length.
        rate: pictures per second, 0 for real ones.
    """

    pictures: Tensor
    caption: Tensor
    features: Tensor
    rate: float = 0.0


class Report:
    """Measures a pipeline against the real drawings.

    Features are those of ImageNet's EfficientNet-Lite0, which never saw emoji. The judge is a linear discriminant on
    them, fitted to real drawings only.

    Args:
        pipe: the generator.
        captions: train captions, and as many test captions, to draw.
        each: pictures of each.
        seed: of the choice of captions and of the noise.
    """

    def __init__(self, pipe: EmojiPipeline, captions: int = 100, each: int = 4, seed: int = 0) -> None:
        self.pipe, self.each, self.seed = pipe, each, seed
        self._drawn: dict[tuple[str, float, int], Drawn] = {}
        self.network: nn.Module = packaged_encoder(None)[0]
        self.real = {part: drawings(part, DESIGNERS) for part in ("train", "test")}
        self.held_out = {part: drawings(part, (held_out_designer(),)) for part in ("train", "test")}
        self.features = {part: self.encode(to_float(found.pixels)) for part, found in self.real.items()}
        self.judges = {part: self._judge(part) for part in self.real}
        rng = np.random.default_rng(seed)
        self.chosen = {
            part: np.sort(rng.permutation(len(found.captions))[:captions]) for part, found in self.real.items()
        }

    @torch.inference_mode()
    def encode(self, pictures: Tensor) -> Tensor:
        """Features [N, D] of unit length of pictures [N, 3, H, W] in [-1, 1]."""
        parts = [interpolate(part, size=_SIDE, mode="bicubic", antialias=True) for part in torch.split(pictures, 64)]
        return normalize(torch.cat([self.network(part) for part in parts]), dim=1)

    def draw(self, part: str, guidance_scale: float, steps: int = 10) -> Drawn:
        """Pictures of the chosen captions of a part, drawn once; the noise is the same at all scales."""
        if (part, guidance_scale, steps) in self._drawn:
            return self._drawn[part, guidance_scale, steps]
        rows = torch.from_numpy(self.chosen[part]).repeat_interleave(self.each)
        noise = torch.randn(len(rows), *self.pipe.noise_shape(), generator=torch.Generator().manual_seed(self.seed))
        parts, started = [], time.perf_counter()
        for some, start in zip(torch.split(rows, 32), torch.split(noise, 32), strict=True):
            texts = [self.real[part].captions[row] for row in some]
            parts.append(self.pipe(texts, num_inference_steps=steps, guidance_scale=guidance_scale, latents=start,
                                   output_type="pt").images)  # fmt: skip
        rate = len(rows) / (time.perf_counter() - started)
        pictures = torch.cat(parts) * 2 - 1
        drawn = Drawn(pictures, rows, self.encode(pictures), rate)
        self._drawn[part, guidance_scale, steps] = drawn
        return drawn

    def quality(self, part: str, drawn: Drawn) -> dict[str, float]:
        """Kernel distance to real drawings, retrieval of the caption, diversity within captions."""
        return {
            "kernel distance x 1000": 1000 * kernel_distance(self.features[part], drawn.features, self.seed),
            **self.retrieval(part, drawn.features, drawn.caption),
            "diversity": _diversity(drawn.features, self.each),
        }

    def retrieval(self, part: str, features: Tensor, caption: Tensor) -> dict[str, float]:
        """Share of pictures whose caption the judge finds first, and among the first five, of all the part's."""
        scores = torch.from_numpy(self.judges[part].decision_function(features.numpy()))
        found = scores.topk(5).indices == caption[:, None]
        return {"top-1": found[:, 0].double().mean().item(), "top-5": found.any(1).double().mean().item()}

    def references(self, part: str) -> dict[str, float]:
        """The same numbers for the real drawings of the designer that nobody was trained on."""
        found = self.held_out[part]
        features = self.encode(to_float(found.pixels))
        distance = 1000 * kernel_distance(self.features[part], features, self.seed)
        groups = [self.features[part][self.real[part].caption == row] for row in self.chosen[part]]
        spread = [_diversity(group, len(group)) for group in groups if len(group) > 1]
        return {"kernel distance x 1000": distance, **self.retrieval(part, features, found.caption),
                "diversity": float(np.mean(spread))}  # fmt: skip

    def copying(self, drawn: Drawn) -> dict[str, Array]:
        """Distances to the nearest training drawing, of generated pictures."""
        train = self.real["train"]
        return {
            "feature": nearest(drawn.features, self.features["train"]),
            "pixel": nearest(_plain(drawn.pictures), _plain(to_float(train.pixels))),
        }

    def copying_references(self) -> dict[str, dict[str, Array]]:
        """What the distances of copies are held against.

        `siblings`: of every training drawing to the nearest one of the same caption by another designer.
        `held-out designer`: of the drawings of train captions that were never trained on, to the nearest training one.
        """
        train, unseen = self.real["train"], self.held_out["train"]
        pixels, others = _plain(to_float(train.pixels)), _plain(to_float(unseen.pixels))
        features = self.features["train"]
        other_features = self.encode(to_float(unseen.pixels))
        return {
            "siblings": {"feature": _siblings(train, features), "pixel": _siblings(train, pixels)},
            "held-out designer": {"feature": nearest(other_features, features), "pixel": nearest(others, pixels)},
        }

    def _judge(self, part: str) -> Any:
        judge = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.3)
        return judge.fit(self.features[part].numpy(), self.real[part].caption.numpy())


def kernel_distance(real: Tensor, made: Tensor, seed: int, size: int = 300, subsets: int = 20) -> float:
    """Kernel inception distance: mean unbiased MMD^2 with a cubic kernel over random subsets of equal size.

    Features have unit length here, which are scaled to the square root of their number.

    Paper:
        Binkowski et al., Demystifying MMD GANs, ICLR 2018, https://arxiv.org/abs/1801.01401.
    """
    size = min(size, len(real), len(made))
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(subsets):
        picked = [features[torch.randperm(len(features), generator=generator)[:size]] for features in (real, made)]
        found.append(poly_mmd(*(features * features.shape[1] ** 0.5 for features in picked)))
    return float(torch.stack(found).mean())


def nearest(queries: Tensor, gallery: Tensor) -> Array:
    """Distance of each query [N, D] to its nearest row of the gallery [M, D]."""
    found: Array = torch.cdist(queries, gallery).amin(1).double().numpy()
    return found


def _siblings(found: Drawings, values: Tensor) -> Array:
    """Distance of each drawing to the nearest of the same caption by another family of designers."""
    family = np.array([_FAMILY.get(name, name) for name in DESIGNERS])[found.designer.numpy()]
    distances = []
    for caption in range(len(found.captions)):
        rows = torch.nonzero(found.caption == caption).flatten()
        apart = torch.cdist(values[rows], values[rows]).double().numpy()
        apart[family[rows.numpy()][:, None] == family[rows.numpy()]] = np.inf
        distances.append(apart.min(1))
    joined: Array = np.concatenate(distances)
    return joined[np.isfinite(joined)]


def _diversity(features: Tensor, each: int) -> float:
    """Mean squared distance of unit features to their caption's mean."""
    groups = features.view(-1, each, features.shape[1])
    return float((groups - groups.mean(1, keepdim=True)).square().sum(2).mean())


def _plain(pictures: Tensor) -> Tensor:
    """Pixels [N, D] such that the distance of two rows is the root mean square difference, white - black = 1."""
    small = interpolate(pictures, size=32, mode="area").flatten(1) / 2
    scaled: Tensor = small / small.shape[1] ** 0.5
    return scaled


def sheet(
    pipe: EmojiPipeline, captions: Sequence[str], scales: Sequence[float], each: int, steps: int, path: Path
) -> None:
    """Write a picture: a row for each caption, `each` pictures for each guidance scale."""
    side, left, top, gap = pipe.default_size, 150, 18, 8
    width = left + len(scales) * (each * side + gap)
    canvas = Image.new("RGB", (width, top + len(captions) * side), "white")
    pen = ImageDraw.Draw(canvas)
    texts = [text for text in captions for _ in range(each)]
    noise = torch.randn(len(texts), *pipe.noise_shape(), generator=torch.Generator().manual_seed(1))
    for column, scale in enumerate(scales):
        start = left + column * (each * side + gap)
        pen.text((start, 3), f"guidance scale {scale:g}", fill="black")
        images = pipe(texts, num_inference_steps=steps, guidance_scale=scale, latents=noise).images
        for number, image in enumerate(images):
            canvas.paste(image, (start + number % each * side, top + number // each * side))
    for row, text in enumerate(captions):
        pen.text((3, top + row * side + side // 2 - 6), text[:24], fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.quantize(128).save(path, optimize=True)
