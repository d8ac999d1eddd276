"""Training of the emoji generator: the fresh pipeline, the loss and the loop."""

from __future__ import annotations

import copy
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, PixArtTransformer2DModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from lgrep.errors import CheckpointError
from lgrep.generation.emoji_drawings import DESIGNERS, Drawings, augment, glove_words, to_float
from lgrep.generation.emoji_pipeline import EmojiPipeline
from lgrep.generation.patch_codec import PatchCodec
from lgrep.generation.text_encoder import CaptionEncoder, Words, words_of


@dataclass(frozen=True)
class GeneratorTraining:
    """How the emoji generator is trained.

    Attributes:
        steps: optimiser steps; may be raised before the last two fifths, in which the learning rate falls.
        batch_size: drawings in a step.
        learning_rate: of AdamW, after a warm-up of 300 steps or a twentieth of them.
        ema: decay of the averaged weights, which are the ones that are kept.
        no_caption, no_designer, no_word: how often the caption, the designer, or each single word is not told.
        augmented: share of drawings that are shifted, scaled and turned; the network is told how.
        finish_steps: of the codec's finishing network, which is trained first.
        layout_steps, layout_weight: of the text encoder alone, which then learns the mean latents of a caption's drawings;
            weight of that loss later.
        channels, layers: of the denoiser.
        width: of the text encoder.
        vocabulary: word vectors that are kept, the most frequent words.
        seed: of everything.
        precision: of the network's activations.
    """

    steps: int = 8_000
    batch_size: int = 64
    learning_rate: float = 1e-3
    ema: float = 0.999
    no_caption: float = 0.1
    no_designer: float = 0.15
    no_word: float = 0.05
    augmented: float = 0.4
    finish_steps: int = 1500
    layout_steps: int = 1500
    layout_weight: float = 0.3
    channels: int = 192
    layers: int = 5
    width: int = 128
    vocabulary: int = 16_000
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
    transformer = PixArtTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=settings.channels // 4,
        num_layers=settings.layers,
        in_channels=codec.config.latent_channels + encoder.config.layout[0],
        out_channels=codec.config.latent_channels,
        cross_attention_dim=settings.channels,
        caption_channels=settings.width,
        sample_size=64 // codec.patch,
        patch_size=1,
        activation_fn="linear-silu",
        use_additional_conditions=False,
    )
    scheduler = DPMSolverMultistepScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", timestep_spacing="trailing",
        lambda_min_clipped=-5.1,
    )  # fmt: skip
    return EmojiPipeline(transformer, scheduler, encoder, codec)


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
        self.trained = nn.ModuleDict({"transformer": pipe.transformer, "text_encoder": pipe.text_encoder}).train()
        self.average = copy.deepcopy(self.trained).eval()
        # Weights in the activations' precision; casting them once a step is cheaper than casting every activation.
        self.fast = nn.Module.to(copy.deepcopy(pipe.transformer), getattr(torch, settings.precision))
        self.fast.set_attn_processor(AttnProcessor())  # torch's fused one is slow backwards on CPUs
        self.optimizer = torch.optim.AdamW(
            self.trained.parameters(), settings.learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        self.signal = pipe.scheduler.alphas_cumprod.to(device)
        self.means = self._means()

    def train_step(self) -> Tensor:
        """One optimiser step; the loss."""
        started = time.perf_counter()
        generator = self.generator(self.step)
        torch.manual_seed(self.settings.seed * 1_000_003 + self.step)  # the text encoder's dropout
        pictures, chosen, augmentation = self.pictures(generator, self.settings.batch_size)
        latents = self.pipe.vae.encode(pictures)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        moment = torch.randint(len(self.signal), (len(latents),), generator=generator).to(self.device)
        signal = self.signal[moment].view(-1, 1, 1, 1)
        noisy = signal.sqrt() * latents + (1 - signal).sqrt() * noise
        target = signal.sqrt() * noise - (1 - signal).sqrt() * latents
        predicted, common = self._predict(noisy, moment, chosen, augmentation, generator)
        loss = mse_loss(predicted, target)
        (loss + self.settings.layout_weight * common).backward()  # type: ignore[no-untyped-call]
        self._update()
        self.step += 1
        self.seconds += time.perf_counter() - started
        return loss.detach()

    def _predict(
        self, noisy: Tensor, moment: Tensor, chosen: Tensor, augmentation: Tensor, generator: Any
    ) -> tuple[Tensor, Tensor]:
        settings = self.settings
        caption = self.drawings.caption[chosen].to(self.device)
        words = self.words.of(caption)
        chances = torch.rand(len(chosen), 2 + words.rows.shape[1], generator=generator).to(self.device)
        kept = (chances[:, :1] >= settings.no_caption) & (chances[:, 2:] >= settings.no_word)
        words = Words(words.rows * kept, words.parts * kept[..., None])
        designer = self.drawings.designer[chosen].to(self.device)
        designer = torch.where(chances[:, 1] < settings.no_designer, -1, designer)
        told = self.trained["text_encoder"](words, designer, augmentation)
        kind = self.fast.dtype
        found: Tensor = self.fast(
            torch.cat([noisy, told.layout], 1).to(kind),
            encoder_hidden_states=told.sequence.to(kind),
            timestep=moment,
            added_cond_kwargs={},
            encoder_attention_mask=told.mask,
            return_dict=False,
        )[0]
        away = (told.layout - self.means[caption]).square().mean((1, 2, 3))
        return found.float(), (away * kept.any(1)).mean()

    @torch.no_grad()
    def _means(self) -> Tensor:
        """Mean latents [captions, C, S, S] of each caption's drawings."""
        latents = [
            self.pipe.vae.encode(to_float(some.to(self.device))) for some in torch.split(self.drawings.pixels, 256)
        ]
        sums = torch.zeros(len(self.drawings.captions), *latents[0].shape[1:], device=self.device)
        caption = self.drawings.caption.to(self.device)
        counts = torch.bincount(caption, minlength=len(sums)).clamp(min=1).view(-1, 1, 1, 1)
        return sums.index_add_(0, caption, torch.cat(latents)) / counts

    @torch.no_grad()
    def _update(self) -> None:
        slow, fast = list(self.trained["transformer"].parameters()), list(self.fast.parameters())
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
        """Share of the learning rate: warm-up, then constant, falling over the last two fifths."""
        left = (self.settings.steps - self.step) / (0.4 * self.settings.steps)
        warm_up = min(300, 0.05 * self.settings.steps)
        return max(0.0, min(1.0, (self.step + 1) / warm_up, left))

    @torch.no_grad()
    def _refresh(self) -> None:
        torch._foreach_copy_(list(self.fast.parameters()), list(self.trained["transformer"].parameters()))

    def generator(self, step: int, stream: int = 0) -> torch.Generator:
        """Random numbers of a step; streams are independent."""
        seeds = np.random.SeedSequence([self.settings.seed, stream, step])
        return torch.Generator().manual_seed(int(seeds.generate_state(1, np.uint64)[0] >> 1))

    def pictures(self, generator: torch.Generator, count: int) -> tuple[Tensor, Tensor, Tensor]:
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
            "settings": asdict(self.settings),
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
        mine = asdict(self.settings)
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
