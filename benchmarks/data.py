"""Pictures per second: decoding and two augmented 224 px views, against what one would use instead.

    python benchmarks/data.py --out benchmarks/data                 one core and two (a few minutes)
    python benchmarks/data.py --cores 1 --rounds 2 --sources jpeg   part of it
    python benchmarks/data.py --device cuda                         also the augmentation on the GPU

All candidates draw from one distribution: language-guided SimCLR's recipe (`augment=simclr`). They run in turn, several
rounds; the best round counts, so that a busy machine disturbs all of them alike. One core: this process, one thread, processor time.
Two cores: a `DataLoader` with two workers, the batch's way to this process included. Peers that are not installed
are left out. solo-learn is no package: its recipe is rebuilt from its parts (torchvision v1 on Pillow's pictures, bicubic).
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data_pictures import encoded, pictures
from PIL import Image, ImageFilter
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import io, transforms
from torchvision.transforms import v2

from lgrep.data.decoding import decode_pixels
from lgrep.data.stacking import stack_views
from lgrep.data.transforms import IMAGENET_MEAN, IMAGENET_STD, Recipe
from lgrep.records import provenance

SIZE, VIEWS, BATCH = 224, 2, 32
SOURCES = {"jpeg": (500, 375), "png": (256, 256)}
REFERENCE = "Pillow + torchvision v1"
RECIPE = Recipe(crop_scale=(0.2, 1.0))
Load = Callable[[bytes, int], Any]  # the views of a picture


class PillowBlur:
    """As in the reference repositories."""

    def __call__(self, picture: Image.Image) -> Image.Image:
        return picture.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


def v1(interpolation: transforms.InterpolationMode = transforms.InterpolationMode.BILINEAR) -> transforms.Compose:
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE, (0.2, 1.0), interpolation=interpolation),
            transforms.RandomHorizontalFlip(),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8),
            transforms.RandomGrayscale(0.2),
            transforms.RandomApply([PillowBlur()], 0.5),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )


def v2_tensors() -> v2.Compose:
    return v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, (0.2, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(15, (0.1, 2.0))], 0.5),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )


def of_pillow(transform: Callable[[Image.Image], Tensor]) -> Load:
    def load(data: bytes, key: int) -> list[Tensor]:
        picture = Image.open(BytesIO(data)).convert("RGB")
        return [transform(picture) for _ in range(VIEWS)]

    return load


def of_tensors(data: bytes, key: int, transform: Any = v2_tensors()) -> list[Tensor]:  # noqa: B008
    picture = io.decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), io.ImageReadMode.RGB)
    return [transform(picture) for _ in range(VIEWS)]


def lightly() -> Load:
    from lightly.transforms import SimCLRTransform

    transform = SimCLRTransform(
        SIZE, cj_strength=0.5, cj_bright=0.8, cj_contrast=0.8, cj_sat=0.8, cj_hue=0.2, min_scale=0.2, sigmas=(0.1, 2.0)
    )
    return lambda data, key: transform(Image.open(BytesIO(data)).convert("RGB"))


def loader_side(data: bytes, key: int) -> tuple[list[Any], list[dict[str, Any]]]:
    picture = decode_pixels(data)
    rng = np.random.Generator(np.random.Philox(key=[key, 0]))
    drawn = [RECIPE.draw(rng, picture.width, picture.height) for _ in range(VIEWS)]
    return [RECIPE.worker(picture.pixels, params, SIZE) for params in drawn], drawn


def everything(data: bytes, key: int) -> list[Any]:
    return [RECIPE.finish(view, params) for view, params in zip(*loader_side(data, key), strict=True)]


def collate_finished(samples: list[Any]) -> list[Tensor]:
    return [stack_views([sample[view] for sample in samples]) for view in range(VIEWS)]


def collate_shipped(samples: list[Any]) -> list[tuple[Tensor, dict[str, Tensor]]]:
    return [
        (stack_views([views[view] for views, _ in samples]), RECIPE.collate([drawn[view] for _, drawn in samples]))
        for view in range(VIEWS)
    ]


def candidates() -> dict[str, tuple[Load, Callable[[list[Any]], Any]]]:
    made: dict[str, tuple[Load, Callable[[list[Any]], Any]]] = {
        REFERENCE: (of_pillow(v1()), collate_finished),
        "torchvision v2 on tensors": (of_tensors, collate_finished),
        "solo-learn's recipe, rebuilt": (of_pillow(v1(transforms.InterpolationMode.BICUBIC)), collate_finished),
        "lgrep, everything on the CPU": (everything, collate_finished),
        "lgrep, loader side of augment.device=gpu": (loader_side, collate_shipped),
    }
    try:
        made["lightly SimCLRTransform"] = (lightly(), collate_finished)
    except ImportError:
        print("lightly is not installed: left out")
    return made


class Files(Dataset[Any]):
    """Encoded pictures, and what a candidate makes of them."""

    def __init__(self, files: list[bytes], load: Load, length: int) -> None:
        self.files, self.load, self.length = files, load, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return self.load(self.files[index % len(self.files)], index)


class Runner:
    """One candidate on some cores; its workers live on between the rounds, asleep."""

    def __init__(
        self, files: list[bytes], load: Load, collate: Callable[[list[Any]], Any], cores: int, count: int
    ) -> None:
        workers = 0 if cores == 1 else cores
        self.count = count
        self.loader: DataLoader[Any] = DataLoader(
            Files(files, load, count + BATCH * workers),
            BATCH,
            collate_fn=collate,
            num_workers=workers,
            persistent_workers=workers > 0,
        )

    def rate(self) -> float:
        """Pictures per second, after the first batches: starting is not measured."""
        # One core: processor time, which other processes disturb less.
        clock = time.perf_counter if self.loader.num_workers else time.process_time
        batches, seen = iter(self.loader), 0
        for _ in range(max(1, self.loader.num_workers)):
            next(batches, None)
        began = clock()
        for _ in batches:
            seen += BATCH
        return seen / (clock() - began)


def measure(source: str, cores: int, rounds: int, count: int) -> Iterator[dict[str, Any]]:
    files = [encoded(picture, source) for picture in pictures(32, *SOURCES[source])]
    runners = {
        name: Runner(files, load, collate, cores, count + BATCH) for name, (load, collate) in candidates().items()
    }
    best = dict.fromkeys(runners, 0.0)
    for _ in range(rounds):
        for name, runner in runners.items():
            best[name] = max(best[name], runner.rate())
    for name, rate in best.items():
        yield {
            "source": f"{source} {SOURCES[source][0]}x{SOURCES[source][1]}",
            "cores": cores,
            "candidate": name,
            "pictures_per_s": round(rate, 1),
            "times_reference": round(rate / best[REFERENCE], 2),
        }


def device_stage(device: str, rounds: int, batch: int = 256) -> Iterator[dict[str, Any]]:
    """Views per second of what is left for the training device, the copy of the uint8 views to it included."""
    files = [encoded(picture, "jpeg") for picture in pictures(32, *SOURCES["jpeg"])]
    samples = [loader_side(files[key % 32], key) for key in range(batch)]
    views, params = collate_shipped(samples)[0]
    stages: dict[str, Callable[[], Tensor]] = {
        "lgrep, batched": lambda: RECIPE.batched(views.to(device), {k: v.to(device) for k, v in params.items()})
    }
    if device == "cpu":
        stages["lgrep, picture by picture"] = lambda: RECIPE.device(views, params)
    kornia = kornia_stage(device)
    if kornia is not None:
        stages["kornia"] = lambda: kornia(views.to(device).float() / 255)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    best = dict.fromkeys(stages, 0.0)
    for _ in range(rounds + 1):
        for name, stage in stages.items():
            wait()
            began = time.perf_counter()
            stage()
            wait()
            best[name] = max(best[name], batch / (time.perf_counter() - began))
    for name, rate in best.items():
        yield {"source": f"uint8 views on {device}", "cores": 1, "candidate": name, "pictures_per_s": round(rate, 1)}


def kornia_stage(device: str) -> Any:
    try:
        from kornia import augmentation
    except ImportError:
        print("kornia is not installed: left out")
        return None
    return augmentation.AugmentationSequential(
        augmentation.RandomHorizontalFlip(p=0.5),
        augmentation.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        augmentation.RandomGrayscale(p=0.2),
        augmentation.RandomGaussianBlur((15, 15), (0.1, 2.0), p=0.5),
        augmentation.Normalize(torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)),
        data_keys=["input"],
    ).to(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for results.csv and conditions.json; default: print only")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--sources", nargs="+", choices=list(SOURCES), default=list(SOURCES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=128, help="pictures per round and candidate")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="also measure the device stage alone there")
    given = parser.parse_args()
    torch.set_num_threads(1)
    lines: list[dict[str, Any]] = []
    for source in given.sources:
        for cores in given.cores:
            lines += measure(source, cores, given.rounds, given.count)
    if given.device:
        lines += device_stage(given.device, given.rounds)
    for line in lines:
        print(*line.values(), sep="\t")
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        with (given.out / "results.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(lines[0]), restval="")
            writer.writeheader()
            writer.writerows(lines)
        conditions = {**provenance(), "rounds": given.rounds}
        (given.out / "conditions.json").write_text(json.dumps(conditions, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
