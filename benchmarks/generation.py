"""Generation measured beside the published way: `python benchmarks/generation.py --pipeline emoji --out benchmarks/generation`.

On the same pipeline, weights, solver and device, files included:
    published   batches of 6 prompts, on a GPU float32 weights under float16 autocast; PNG files written one by one
    one         one prompt at a time, weights in the dtype of ours
    ours        the engine of generate.py in one process, batch size as it chooses

`--pipeline` picks emoji (the package's weights), small (random Stable Diffusion classes for CPUs) or sd15 (random weights
of Stable Diffusion 1.5's size, 512 px, 50 steps; for GPUs). Rounds alternate; the best of each way counts.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import string
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from lgrep.config.schema import GenerateConfig
from lgrep.data.emoji import open_emoji
from lgrep.generation.captions import Captions
from lgrep.generation.engine import Engine
from lgrep.generation.loading import load_pipeline, require_diffusers
from lgrep.generation.noise import Key
from lgrep.generation.painter import Painter
from lgrep.generation.run import Resolved, prepare
from lgrep.generation.settings import Generator
from lgrep.records import provenance

Row = dict[str, Any]
PUBLISHED_BATCH = 6
SETTINGS = {
    "emoji": Generator("emoji", guidance_scale=2.0, steps=10, codec="png"),
    "small": Generator("small", guidance_scale=2.0, steps=10, codec="png"),
    "sd15": Generator("sd15", guidance_scale=2.0, steps=50, size=512, save_size=256, codec="png"),
}
NETWORKS: dict[str, dict[str, Any]] = {
    "small": {"unet": (32, 64, 64), "vae": (16, 32, 32), "text": (64, 2, 4), "sample": 16, "layers": 1, "heads": 8},
    "sd15": {"unet": (320, 640, 1280, 1280), "vae": (128, 256, 512, 512), "text": (768, 12, 12), "sample": 64,
             "layers": 2, "heads": 8},
}  # fmt: skip


def tokenizer() -> Any:
    """CLIP's tokeniser with letters for tokens, and ids up to CLIP's."""
    from transformers import CLIPTokenizer

    letters = [*string.ascii_lowercase, *string.digits]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary, merges = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
        vocabulary.write_text(json.dumps({token: number for number, token in enumerate(words)}))
        merges.write_text("#version: 0.2\n")
        return CLIPTokenizer(str(vocabulary), str(merges), model_max_length=77)


def stable_diffusion(name: str, dtype: torch.dtype) -> Any:
    """A Stable Diffusion 1.5 pipeline with random weights of the given size."""
    from transformers import CLIPTextConfig, CLIPTextModel

    diffusers, sizes, words = require_diffusers(), NETWORKS[name], tokenizer()
    torch.manual_seed(0)
    blocks, width = len(sizes["unet"]), sizes["text"][0]
    unet = diffusers.UNet2DConditionModel(
        sample_size=sizes["sample"], block_out_channels=sizes["unet"], layers_per_block=sizes["layers"],
        down_block_types=(*("CrossAttnDownBlock2D",) * (blocks - 1), "DownBlock2D"),
        up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * (blocks - 1)),
        cross_attention_dim=width, attention_head_dim=sizes["heads"],
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=sizes["vae"], layers_per_block=sizes["layers"], latent_channels=4, norm_num_groups=16,
        down_block_types=("DownEncoderBlock2D",) * len(sizes["vae"]), up_block_types=("UpDecoderBlock2D",) * len(sizes["vae"]),
    )  # fmt: skip
    text = CLIPTextModel(CLIPTextConfig(
        bos_token_id=len(words) - 2, eos_token_id=len(words) - 1, hidden_size=width, intermediate_size=4 * width,
        num_hidden_layers=sizes["text"][1], num_attention_heads=sizes["text"][2], vocab_size=49408,
    ))  # fmt: skip
    pipe = diffusers.StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=words, unet=unet, safety_checker=None, feature_extractor=None,
        scheduler=diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1, beta_start=0.00085,
                                          beta_end=0.012, beta_schedule="scaled_linear"),
        requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(dtype)


def loaded(name: str, settings: Generator, device: str) -> Any:
    if name == "emoji":
        return load_pipeline(settings, device)
    return stable_diffusion(name, getattr(torch, settings.precision(device)))


def plainly(
    pipe: Any, settings: Generator, texts: list[str], batch: int, folder: Path, device: str, autocast: bool
) -> None:
    """Prompts in batches, files one by one, nothing at the same time."""
    pixels = {"height": settings.size, "width": settings.size} if isinstance(settings.size, int) else {}
    for start in range(0, len(texts), batch):
        chosen = texts[start : start + batch]
        noise = torch.Generator().manual_seed(start)
        with torch.autocast("cuda", torch.float16) if autocast else nullcontext(), torch.inference_mode():
            pictures = pipe(chosen, num_inference_steps=settings.steps, guidance_scale=settings.guidance_scale,
                            generator=noise, output_type="pil", **pixels).images  # fmt: skip
        for number, picture in enumerate(pictures):
            if settings.save_size is not None:
                picture = picture.resize((settings.save_size, settings.save_size), Image.Resampling.BICUBIC)
            picture.save(folder / f"{start + number:05d}.png")


def engine(painter: Painter, texts: list[str], folder: Path) -> Engine:
    """Ours on a new set; the batch size is found here."""
    names = pa.array([str(number) for number in range(len(texts))])
    captions = Captions(pa.table({"id": names, "text": pa.array(texts)}), "made")
    config = GenerateConfig(data={}, generator={})
    place, plan = prepare(folder, Resolved(config, painter.settings, "made"), captions, painter)
    return Engine(place, plan, painter)


def timed(work: Callable[[], None], device: str) -> tuple[float, float]:
    """Seconds, and processor seconds."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    wall, spent = time.perf_counter(), time.process_time()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - spent


def matmul_limit(device: str, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large matrix product, the best of ten."""
    side = 8192 if device.startswith("cuda") else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    times = [timed(lambda: torch.mm(a, b), device)[0] for _ in range(10)]
    return 2 * side**3 / min(times)


def operations(painter: Painter, text: str) -> float:
    """Floating-point operations of one picture, matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        painter([text], [Key(0, text, 0)], 1)
    return float(counter.get_total_flops())


def measure(options: argparse.Namespace) -> list[Row]:
    device, settings = options.device, SETTINGS[options.pipeline]
    changes = {"batch_size": options.batch_size, "compile": options.compile, "dtype": options.dtype}
    settings = dataclasses.replace(settings, **{name: value for name, value in changes.items() if value})
    texts = open_emoji().captions["text"].to_pylist()[: options.pictures]
    on_gpu = device.startswith("cuda")
    published = loaded(options.pipeline, dataclasses.replace(settings, dtype="float32"), device).to(device)
    half = published if not on_gpu else loaded(options.pipeline, settings, device).to(device)
    painter = Painter(loaded(options.pipeline, settings, device), settings, device)
    needed = operations(painter, texts[0])
    best: dict[str, tuple[float, float]] = {}
    batch = 0
    with tempfile.TemporaryDirectory() as scratch:
        for turn in range(options.repeats + 1):  # the first round fills caches
            made = engine(painter, texts, Path(scratch) / f"ours-{turn}")
            batch, folder = made.plan.batch_size, Path(scratch) / f"plain-{turn}"
            folder.mkdir()
            ways: dict[str, Callable[[], None]] = {
                "published": partial(plainly, published, settings, texts, PUBLISHED_BATCH, folder, device, on_gpu),
                "one": partial(plainly, half, settings, texts, 1, folder, device, False),
                "ours": partial(made.run, 1),
            }
            for name, way in ways.items():
                taken = timed(way, device)
                print(f"{name:10s} {len(texts) / taken[0]:8.2f} pictures/s", file=sys.stderr, flush=True)
                if turn:
                    best[name] = min(best.get(name, taken), taken)
    limit = matmul_limit(device, getattr(torch, settings.precision(device)))
    sizes = {"published": PUBLISHED_BATCH, "one": 1, "ours": batch}
    return [
        {
            "pipeline": options.pipeline, "way": name, "batch": sizes[name], "pictures": len(texts),
            "per_second": round(len(texts) / wall, 3), "per_cpu_second": round(len(texts) / spent, 3),
            "times_published": round(best["published"][0] / wall, 3),
            "share_of_matmul_limit": round(needed * len(texts) / wall / limit, 4),
            "gflop_per_picture": round(needed / 1e9, 2), "matmul_tflops": round(limit / 1e12, 3),
        }
        for name, (wall, spent) in best.items()
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", choices=sorted(SETTINGS), default="emoji")
    parser.add_argument("--pictures", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch-size", type=int, help="of ours; default: as generate.py chooses")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], help="of ours")
    parser.add_argument("--compile", action="store_true", help="ours with a compiled network")
    parser.add_argument("--out", type=Path, help="folder for PIPELINE.csv and PIPELINE.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = measure(options)
    writer = csv.DictWriter(sys.stdout, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        with (options.out / f"{options.pipeline}.csv").open("w", newline="") as handle:
            writer = csv.DictWriter(handle, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        conditions = {
            "command": " ".join(["python", "benchmarks/generation.py", *sys.argv[1:]]),
            "threads": options.threads,
            **provenance(),
        }
        (options.out / f"{options.pipeline}.json").write_text(json.dumps(conditions, indent=1) + "\n")


if __name__ == "__main__":
    main()
