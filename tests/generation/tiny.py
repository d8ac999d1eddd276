"""A randomly initialised Stable Diffusion pipeline of real diffusers classes, made in milliseconds."""

from __future__ import annotations

import functools
import json
import string
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lgrep.config.schema import GenerateConfig
from lgrep.generation.captions import Captions
from lgrep.generation.claims import Claims
from lgrep.generation.engine import Engine
from lgrep.generation.loading import _replace_scheduler, require_diffusers
from lgrep.generation.painter import Painter
from lgrep.generation.plan import Plan
from lgrep.generation.run import Resolved, prepare
from lgrep.generation.settings import Generator

SIZE = 16  # px


def tokenizer(words: int = 77) -> Any:
    """CLIP's tokeniser with letters for tokens."""
    from transformers import CLIPTokenizer

    letters = [*string.ascii_lowercase, *string.digits]
    vocabulary = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(vocabulary)}))
        (path / "merges.txt").write_text("#version: 0.2\n")
        return CLIPTokenizer(str(path / "vocab.json"), str(path / "merges.txt"), model_max_length=words)


def pipeline(seed: int = 0, checker: bool = False) -> Any:
    """Stable Diffusion with networks of a few thousand weights; draws 16 px."""
    diffusers = require_diffusers()
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    words = tokenizer()
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, sample_size=8, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=16, norm_num_groups=4, attention_head_dim=4,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4, norm_num_groups=4,
    )  # fmt: skip
    text = CLIPTextModel(CLIPTextConfig(
        bos_token_id=len(words) - 2, eos_token_id=len(words) - 1, hidden_size=16, intermediate_size=32,
        num_attention_heads=2, num_hidden_layers=1, vocab_size=len(words), max_position_embeddings=77,
    ))  # fmt: skip
    scheduler = diffusers.PNDMScheduler(skip_prk_steps=True, steps_offset=1, beta_schedule="scaled_linear")
    parts = {"safety_checker": None, "feature_extractor": None}
    if checker:
        parts = safety_checker()
    return diffusers.StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=words, unet=unet, scheduler=scheduler,
        requires_safety_checker=checker, **parts,
    )  # fmt: skip


def safety_checker() -> dict[str, Any]:
    """Its verdicts are as random as its weights."""
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPVisionConfig

    vision = CLIPVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                              image_size=16, patch_size=8)  # fmt: skip
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision.to_dict(), projection_dim=8))
    return {
        "safety_checker": checker,
        "feature_extractor": CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16),
    }


@functools.cache
def shared_pipeline() -> Any:
    """One for all tests that do not change it."""
    pipe = pipeline()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def settings(**changes: Any) -> Generator:
    defaults: dict[str, Any] = {"pipeline": "tiny", "guidance_scale": 2.0, "steps": 2, "codec": "png", "batch_size": 3,
                                "images_per_caption": 2, "shard_captions": 5}  # fmt: skip
    return Generator(**defaults | changes)


def captions(count: int = 8) -> Captions:
    import pyarrow as pa

    texts = [f"a {colour} {thing}" for thing in ("cat", "dog", "car", "tree") for colour in ("red", "blue", "green")]
    return Captions(pa.table({"id": [f"c{number}" for number in range(count)], "text": texts[:count]}), "tiny")


def engine(
    out: Path, chosen: Generator | None = None, wanted: Captions | None = None, pipe: Any = None, **changes: Any
) -> Engine:
    """An engine on a planned set."""
    torch.set_num_threads(1)
    chosen = chosen or settings()
    wanted = wanted or captions()
    painter = Painter(pipe or shared_pipeline(), chosen, "cpu")
    folder, plan = planned(out, chosen, wanted, painter, **changes)
    return Engine(folder, plan, painter, claims=Claims(folder / "work" / "claims", stale=5.0, beat=0.2))


def planned(out: Path, chosen: Generator, wanted: Captions, painter: Painter, **changes: Any) -> tuple[Path, Plan]:
    config = GenerateConfig(data={}, generator={}, **changes)
    return prepare(out, Resolved(config, chosen, "tiny"), wanted, painter)


def shards(folder: Path) -> dict[str, bytes]:
    """Name -> content of all tar files."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar"))}


def faulty(pipe: Any, when: Callable[[str, np.ndarray], bool], value: Callable[[], float]) -> Any:
    """The pipeline, but all values of a picture for which `when(prompt, latents)` holds are `value()`."""
    kind = type(pipe)

    class Faulty(kind):  # type: ignore[misc, valid-type]
        @functools.wraps(kind.__call__)
        def __call__(self, prompt: list[str], **arguments: Any) -> Any:
            found = super().__call__(prompt, **arguments)
            for number, text in enumerate(prompt):
                if when(text, arguments["latents"][number].numpy()):
                    found.images[number] = value()
            return found

    made = Faulty(**pipe.components, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made


def prepared(changes: dict[str, Any]) -> Any:
    """A fresh pipeline as the loader would give it for these settings."""
    pipe = pipeline()
    _replace_scheduler(require_diffusers(), pipe, settings(**changes))
    return pipe.to(torch.bfloat16) if changes.get("dtype") == "bfloat16" else pipe


def first_value(latents: np.ndarray) -> float:
    return float(latents.flat[0])
