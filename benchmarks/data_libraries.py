"""Libraries that could decode, resize or augment one picture on one core: time, and distance to Pillow or torchvision.

    python benchmarks/data_libraries.py --out benchmarks/data

Processor time, the best of several rounds with all libraries in turn. Libraries that are not installed are left out.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
import torch
from data_pictures import encoded, pictures
from PIL import Image
from torchvision import io
from torchvision.transforms.v2 import functional

from lgrep.data.decoding import decode_pixels
from lgrep.data.transforms import blur, color
from lgrep.data.transforms.crop import resize_pixels
from lgrep.data.transforms.host import Canvas

SIZE = 224
FILES = {
    "jpeg 500x375": ("jpeg", 500, 375, 8),
    "png 256x256": ("png", 256, 256, 8),
    "jpeg 2000x1500": ("jpeg", 2000, 1500, 2),
}
CROP = (300, 360)


def tensor_of(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def pillow_draft(data: bytes, scale: int) -> Any:
    picture = Image.open(BytesIO(data))
    picture.draft("RGB", (picture.width // scale, picture.height // scale))
    return np.asarray(picture.convert("RGB"))


def decoders(kind: str) -> dict[str, Callable[[bytes], Any]]:
    found: dict[str, Callable[[bytes], Any]] = {
        "Pillow": lambda data: np.asarray(Image.open(BytesIO(data)).convert("RGB")),
        "lgrep (simplejpeg, else Pillow)": lambda data: decode_pixels(data).pixels,
        "OpenCV": lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB),
        "torchvision.io": lambda data: io.decode_image(tensor_of(data)).permute(1, 2, 0).numpy(),
    }
    if kind == "jpeg":
        found["simplejpeg"] = lambda data: simplejpeg.decode_jpeg(data, "RGB")
        for scale in (2, 4):
            found[f"Pillow draft, 1/{scale}"] = lambda data, scale=scale: pillow_draft(data, scale)
            found[f"lgrep, 1/{scale}"] = lambda data, scale=scale: decode_pixels(data, lambda w, h: scale).pixels
        try:
            from turbojpeg import TurboJPEG

            turbo = TurboJPEG()
            found["PyTurboJPEG"] = lambda data: turbo.decode(data, pixel_format=0)
        except (ImportError, RuntimeError):
            print("PyTurboJPEG or its library libturbojpeg is not installed: left out")
    return found


def resizers(pixels: Any, mode: str) -> dict[str, Callable[[], Any]]:
    picture, resampling = Image.fromarray(pixels), Image.Resampling[mode.upper()]
    planar = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()[None]
    interpolate = torch.nn.functional.interpolate
    return {
        "Pillow": lambda: np.asarray(picture.resize((SIZE, SIZE), resampling)),
        "Pillow, reducing_gap=2": lambda: np.asarray(picture.resize((SIZE, SIZE), resampling, reducing_gap=2.0)),
        "lgrep (torch, interleaved uint8)": lambda: resize_pixels(pixels, SIZE, SIZE, mode),  # type: ignore[arg-type]
        "torch, planar uint8": lambda: interpolate(planar, (SIZE, SIZE), mode=mode, antialias=True)[0].permute(1, 2, 0),
        "OpenCV INTER_AREA": lambda: cv2.resize(pixels, (SIZE, SIZE), interpolation=cv2.INTER_AREA),
    }


def operations(pixels: Any) -> dict[str, dict[str, Callable[[], Any]]]:
    """Ways to do each operation on one 224 px picture; a canvas is used again and again, as in a loading process."""
    canvas, one = Canvas(SIZE, SIZE), torch.from_numpy(pixels).permute(2, 0, 1).contiguous()[None] / 255
    picture, uint8 = Image.fromarray(pixels), torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
    canvas.load(pixels.transpose(2, 0, 1))
    loaded, room = canvas.pixels.copy(), color.make_workspace(one)

    def ours(change: Callable[[Canvas], None]) -> Callable[[], Any]:
        def apply() -> Any:
            np.copyto(canvas.pixels, loaded)
            change(canvas)
            return canvas.pixels

        return apply

    def batched(change: Callable[[torch.Tensor], Any]) -> Callable[[], Any]:
        return lambda: change(one.clone())[0].permute(1, 2, 0).numpy()

    first, index = torch.ones(1), torch.zeros(1, dtype=torch.long)
    return {
        "hue": {
            "torchvision, float": lambda: functional.adjust_hue(one, 0.05)[0].permute(1, 2, 0).numpy(),
            "torchvision, uint8": lambda: functional.adjust_hue(uint8, 0.05).permute(1, 2, 0).numpy() / 255,
            "Pillow": lambda: np.asarray(functional.adjust_hue(picture, 0.05)) / 255,
            "lgrep batched (torch)": batched(lambda x: color.shift_hue_(x, 0.05 * first, room)),
            "lgrep (OpenCV)": ours(lambda c: c.hue(0.05)),
        },
        "contrast": {
            "torchvision, float": lambda: functional.adjust_contrast(one, 1.2)[0].permute(1, 2, 0).numpy(),
            "torchvision, uint8": lambda: functional.adjust_contrast(uint8, 1.2).permute(1, 2, 0).numpy() / 255,
            "Pillow": lambda: np.asarray(functional.adjust_contrast(picture, 1.2)) / 255,
            "lgrep batched (torch)": batched(lambda x: color.blend_(x, 1.2 * first, -0.2 * first, 0 * first, room)),
            "lgrep (OpenCV)": ours(lambda c: c.jitter([1, 1.2, 1, 0], [color.CONTRAST])),
        },
        "blur, sigma 1": {
            "torchvision, float": lambda: (
                functional.gaussian_blur(one, [15, 15], [1.0, 1.0])[0].permute(1, 2, 0).numpy()
            ),
            "torchvision, uint8": lambda: (
                functional.gaussian_blur(uint8, [15, 15], [1.0, 1.0]).permute(1, 2, 0).numpy() / 255
            ),
            "lgrep batched (torch)": batched(lambda x: blur.blur_(x, index, first, 7)),
            "lgrep (OpenCV)": ours(lambda c: c.blur(1.0, 7)),
        },
    }


def best_times(ways: dict[str, Callable[[], Any]], rounds: int, calls: int) -> dict[str, float]:
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.process_time()
            for _ in range(calls):
                way()
            best[name] = min(best[name], (time.process_time() - began) / calls)
    return best


def lines(
    task: str, ways: dict[str, Callable[[], Any]], rounds: int, calls: int, unit: float = 1.0
) -> Iterator[dict[str, Any]]:
    """One line per way; differences are to the first one, in grey levels; `unit` is one grey level."""
    reference = np.asarray(next(iter(ways.values()))(), float)
    for name, seconds in best_times(ways, rounds, calls).items():
        result = np.asarray(ways[name](), float)
        same = result.shape == reference.shape
        difference = f"{np.abs(result - reference).max() / unit:.2g}" if same else "smaller"
        yield {"task": task, "way": name, "microseconds": round(seconds * 1e6), "greatest_difference": difference}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for libraries.csv; default: print only")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    found: list[dict[str, Any]] = []
    for task, (kind, width, height, count) in FILES.items():
        files = [encoded(picture, kind) for picture in pictures(count, width, height)]
        ways = {
            name: (lambda decode=decode, files=files: [decode(data) for data in files])
            for name, decode in decoders(kind).items()
        }
        for line in lines(f"decode {task}", ways, given.rounds, 1):
            found.append({**line, "microseconds": round(line["microseconds"] / count)})
    photograph = np.asarray(pictures(1, 500, 375)[0])
    for mode in ("bilinear", "bicubic"):
        ways = resizers(np.ascontiguousarray(photograph[: CROP[0], : CROP[1]]), mode)
        found += lines(f"resize {CROP[1]}x{CROP[0]} to {SIZE}, {mode}", ways, given.rounds, 20)
    small = np.asarray(pictures(1, SIZE, SIZE)[0])
    for task, ways in operations(small).items():
        found += lines(f"{task}, {SIZE} px", ways, given.rounds, 20, 1 / 255)
    for line in found:
        print(*line.values(), sep="\t")
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        with (given.out / "libraries.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(found[0]))
            writer.writeheader()
            writer.writerows(found)


if __name__ == "__main__":
    main()
