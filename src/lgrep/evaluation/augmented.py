"""Training pictures cropped and flipped at random, for probes that train on augmented pictures."""

from __future__ import annotations

import hashlib

from PIL import Image, ImageOps
from torch import Tensor

from lgrep.data.pictures import decode, to_rgb
from lgrep.data.randomness import keyed_generator
from lgrep.data.transforms.crop import CROP_DRAWS, random_crop_box, resized_crop
from lgrep.evaluation.features import Pictures

CROP_SCALE, CROP_RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # torchvision's RandomResizedCrop


class AugmentedPictures:
    """Pictures randomly cropped to `size` pixels and flipped; what is drawn depends on seed, pass and row alone.

    Args:
        pictures: the source.
        rows: Long[N], which of them.
        size: side in pixels.
        seed: of the draws.
        number: of the pass.
    """

    def __init__(self, pictures: Pictures, rows: Tensor, size: int, seed: int, number: int) -> None:
        self.pictures, self.rows, self.size, self.seed, self.number = pictures, rows.tolist(), size, seed, number

    @property
    def description(self) -> str:
        """All that tells these pictures from others of the same source."""
        rows = hashlib.sha256(repr(self.rows).encode()).hexdigest()[:16]
        return f"crops {CROP_SCALE} {CROP_RATIO} {self.size} px, seed {self.seed}, pass {self.number}, rows {rows}"

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> Image.Image:
        row = self.rows[position]
        item = self.pictures[row]
        picture = decode(item) if isinstance(item, bytes) else to_rgb(item)
        picture = ImageOps.exif_transpose(picture)
        draws = keyed_generator(self.seed, self.number, row, 0).random(CROP_DRAWS + 1).tolist()
        box = random_crop_box(draws[:-1], picture.width, picture.height, CROP_SCALE, CROP_RATIO)
        view = resized_crop(picture, box, self.size, "bilinear")
        return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if draws[-1] < 0.5 else view

    def identity(self, position: int) -> str:
        """Name of a picture for messages."""
        row = self.rows[position]
        return str(self.pictures.identity(row)) if hasattr(self.pictures, "identity") else f"picture {row}"
