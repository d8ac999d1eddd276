"""Training of the emoji generator: the fresh pipeline, the loss and the loop."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch.nn.functional import l1_loss, mse_loss

from lgrep.errors import CheckpointError
from lgrep.generation.emoji_drawings import DESIGNERS, Drawings, augment, glove_words, to_float
from lgrep.generation.emoji_pipeline import EmojiPipeline
from lgrep.generation.patch_codec import PatchCodec
from lgrep.generation.text_encoder import CaptionEncoder, Words, words_of


@dataclass(frozen=True)
class GeneratorTraining:
    """How the emoji generator is trained.

    Attributes:
        steps: optimiser steps; may be raised later, as only the last fifth has a falling learning rate.
        batch_size: drawings in a step.
        learning_rate: of AdamW, after a warm-up of 300 steps or a twentieth of them.
        ema: decay of the averaged weights, which are the ones that are kept.
        no_caption, no_designer, no_word: how often the caption, the designer, or each single word is not told.
        augmented: share of drawings that are shifted, scaled and turned; the network is told how.
        finish_steps: of the codec's finishing network, which is trained first.
        channels: of the two levels of the UNet.
        width: of the text encoder.
        vocabulary: word vectors that are kept, the most frequent words.
        seed: of everything.
        precision: of the network's activations.
    """

    steps: int = 16_000
    batch_size: int = 32
    learning_rate: float = 1e-3
    ema: float = 0.999
    no_caption: float = 0.1
    no_designer: float = 0.15
    no_word: float = 0.1
    augmented: float = 0.4
    finish_steps: int = 1500
    channels: tuple[int, int] = (96, 112)
    width: int = 128
    vocabulary: int = 20_000
    seed: int = 0
    precision: Literal["bfloat16", "float32"] = "bfloat16"


def build_pipeline(settings: GeneratorTraining, found: Drawings) -> EmojiPipeline:
    """The pipeline with fresh weights, its word vectors and its linear codec in place."""
    torch.manual_seed(settings.seed)
    also = {word for text in found.captions for word in words_of(text)}
    words, vectors = glove_words(settings.vocabulary, also)
    encoder = CaptionEncoder(
        len(words), len("\n".join(words).encode()), vectors.shape[1], settings.width, buckets=1024, designers=DESIGNERS
    )
    encoder.set_words(words, vectors)
    codec = PatchCodec()
    codec.fit(to_float(found.pixels))
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=codec.config.latent_channels + encoder.config.layout[0],
        out_channels=codec.config.latent_channels,
        block_out_channels=settings.channels,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2D",
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=settings.width,
        attention_head_dim=4,
        norm_num_groups=16,
        resnet_time_scale_shift="scale_shift",
        time_embedding_dim=256,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=encoder.vector_dim,
    )
    scheduler = DPMSolverMultistepScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", timestep_spacing="trailing",
        lambda_min_clipped=-5.1,
    )  # fmt: skip
    return EmojiPipeline(unet, scheduler, encoder, codec)


class Trainer:
    """Trains a pipeline; every step's random numbers come from (seed, step), so a resumed run is the same run.

    Args:
        settings: see `GeneratorTraining`.
        found: drawings.
        pipe: with fresh weights, from `build_pipeline`.
        device: where it trains.

    Attributes:
        step: optimiser steps done.
        seconds: spent on them.
    """

    def __init__(self, settings: GeneratorTraining, found: Drawings, pipe: EmojiPipeline, device: str = "cpu") -> None:
        self.settings, self.drawings, self.pipe, self.device = settings, found, pipe.to(device), device
        self.step, self.seconds = 0, 0.0
        words = pipe.text_encoder.read(found.captions).to(device)
        longest = int((words.parts[..., 0] > 0).sum(1).max())
        self.words = Words(words.rows[:, :longest], words.parts[:, :longest])
        self.trained = nn.ModuleDict({"unet": pipe.unet, "text_encoder": pipe.text_encoder}).train()
        self.average = copy.deepcopy(self.trained).eval()
        # Weights in the activations' precision; casting them once a step is cheaper than casting every activation.
        self.fast = copy.deepcopy(pipe.unet).to(getattr(torch, settings.precision), memory_format=torch.channels_last)
        self.fast.set_attn_processor(AttnProcessor())  # torch's fused one is slow backwards on CPUs
        self.optimizer = torch.optim.AdamW(
            self.trained.parameters(), settings.learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        self.signal = pipe.scheduler.alphas_cumprod.to(device)

    def finish_codec(self, log: Callable[[str], None] = lambda line: None) -> None:
        """Train the codec's finishing network; whole, before the first step."""
        codec, optimizer = self.pipe.vae.train(), torch.optim.AdamW(self.pipe.vae.parameters(), 1e-3)
        for step in range(self.settings.finish_steps):
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * min(1, 2 * (1 - step / self.settings.finish_steps))
            generator = self._generator(step, stream=1)
            pictures, _, _ = self._pictures(generator, 16)
            with torch.no_grad():
                latents = codec.encode(pictures)
                amount = 0.35 * torch.rand(len(latents), 1, 1, 1, generator=generator).to(latents)
                rough = codec.rough(latents + amount * torch.randn(latents.shape, generator=generator).to(latents))
            with torch.autocast(torch.device(self.device).type, torch.bfloat16, self.fast.dtype == torch.bfloat16):
                finished = codec.smoothed(rough)
            loss = l1_loss(finished, pictures)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if step % 250 == 0:
                log(f"codec {step:,}: error {loss.item():.4f}, {l1_loss(rough, pictures).item():.4f} before")
        codec.eval().requires_grad_(False)

    def train_step(self) -> Tensor:
        """One optimiser step; the loss."""
        started = time.perf_counter()
        generator = self._generator(self.step)
        torch.manual_seed(self.settings.seed * 1_000_003 + self.step)  # the text encoder's dropout
        pictures, chosen, augmentation = self._pictures(generator, self.settings.batch_size)
        latents = self.pipe.vae.encode(pictures)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        moment = torch.randint(len(self.signal), (len(latents),), generator=generator).to(self.device)
        signal = self.signal[moment].view(-1, 1, 1, 1)
        noisy = signal.sqrt() * latents + (1 - signal).sqrt() * noise
        target = signal.sqrt() * noise - (1 - signal).sqrt() * latents
        loss = mse_loss(self._predict(noisy, moment, chosen, augmentation, generator), target)
        loss.backward()  # type: ignore[no-untyped-call]
        self._update()
        self.step += 1
        self.seconds += time.perf_counter() - started
        return loss.detach()

    def _predict(self, noisy: Tensor, moment: Tensor, chosen: Tensor, augmentation: Tensor, generator: Any) -> Tensor:
        settings = self.settings
        words = self.words.of(self.drawings.caption[chosen].to(self.device))
        chances = torch.rand(len(chosen), 2 + words.rows.shape[1], generator=generator).to(self.device)
        kept = (chances[:, :1] >= settings.no_caption) & (chances[:, 2:] >= settings.no_word)
        words = Words(words.rows * kept, words.parts * kept[..., None])
        designer = self.drawings.designer[chosen].to(self.device)
        designer = torch.where(chances[:, 1] < settings.no_designer, -1, designer)
        told = self.trained["text_encoder"](words, designer, augmentation)
        kind = self.fast.dtype
        found: Tensor = self.fast(
            torch.cat([noisy, told.layout], 1).to(kind, memory_format=torch.channels_last),
            moment,
            encoder_hidden_states=told.sequence.to(kind),
            encoder_attention_mask=told.mask,
            class_labels=told.vector.to(kind),
            return_dict=False,
        )[0]
        return found.float()

    @torch.no_grad()
    def _update(self) -> None:
        slow, fast = list(self.trained["unet"].parameters()), list(self.fast.parameters())
        for weight, copied in zip(slow, fast, strict=True):
            assert copied.grad is not None
            weight.grad = copied.grad.float()
            copied.grad = None
        nn.utils.clip_grad_norm_(self.trained.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * self._rate()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._refresh()
        decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        for average, weight in zip(self.average.parameters(), self.trained.parameters(), strict=True):
            average.lerp_(weight, 1 - decay)

    def _rate(self) -> float:
        """Share of the learning rate: warm-up, then constant, falling over the last fifth."""
        left = (self.settings.steps - self.step) / (0.2 * self.settings.steps)
        warm_up = min(300, 0.05 * self.settings.steps)
        return max(0.0, min(1.0, (self.step + 1) / warm_up, left))

    @torch.no_grad()
    def _refresh(self) -> None:
        torch._foreach_copy_(list(self.fast.parameters()), list(self.trained["unet"].parameters()))

    def _generator(self, step: int, stream: int = 0) -> torch.Generator:
        seeds = np.random.SeedSequence([self.settings.seed, stream, step])
        return torch.Generator().manual_seed(int(seeds.generate_state(1, np.uint64)[0] >> 1))

    def _pictures(self, generator: torch.Generator, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures in [-1, 1], rows of the drawings, and how they were augmented [count, 5]."""
        chosen = torch.randint(len(self.drawings.pixels), (count,), generator=generator)
        numbers = torch.rand(count, 6, generator=generator)
        amounts = (2 * numbers[:, :4] - 1) * (numbers[:, 4:5] < self.settings.augmented)
        flipped = (numbers[:, 5:] < 0.5) & ~self.drawings.sided[chosen, None]
        told = torch.cat([amounts, flipped], 1).to(self.device)
        pictures = to_float(self.drawings.pixels[chosen].to(self.device))
        return augment(pictures, told), chosen, told

    def state(self) -> dict[str, Any]:
        """All that goes on with a run, as tensors and plain values."""
        return {
            "settings": {**asdict(self.settings), "channels": list(self.settings.channels)},
            "step": self.step,
            "seconds": self.seconds,
            "trained": self.trained.state_dict(),
            "average": self.average.state_dict(),
            "codec": self.pipe.vae.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`.

        Raises:
            CheckpointError: it was made with other settings (`steps` may differ).
        """
        mine = {**asdict(self.settings), "channels": list(self.settings.channels)}
        other = [name for name, value in state["settings"].items() if name != "steps" and mine.get(name) != value]
        if other:
            raise CheckpointError(
                f"the checkpoint was made with {other[0]}={state['settings'][other[0]]}, not {mine.get(other[0])}. "
                "Type that, or another --work folder"
            )
        self.trained.load_state_dict(state["trained"])
        self.average.load_state_dict(state["average"])
        self.pipe.vae.load_state_dict(state["codec"])
        self.pipe.vae.eval().requires_grad_(False)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = int(state["step"]), float(state["seconds"])
        self._refresh()

    def save_pipeline(self, folder: Path) -> None:
        """Write the pipeline with the averaged weights, float16."""
        parts: dict[str, Any] = {name: copy.deepcopy(part).cpu().half() for name, part in self.average.items()}
        codec = copy.deepcopy(self.pipe.vae).cpu().half()
        EmojiPipeline(scheduler=self.pipe.scheduler, vae=codec, **parts).save_pretrained(folder)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A trainer's state.

    Raises:
        CheckpointError: the file cannot be read.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader has many kinds of errors
        raise CheckpointError(f"{path.name} cannot be read; delete it to start anew") from error
    return state


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write a trainer's state; the file is whole at any time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)
