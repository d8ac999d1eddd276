"""What the emoji generator learns before its denoiser: hiding seams, and what captions look like on average."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import l1_loss, mse_loss

from lgrep.generation.emoji_training import Trainer
from lgrep.generation.text_encoder import Words


def prepare(trainer: Trainer, log: Callable[[str], None] = lambda line: None) -> None:
    """Both stages, whole, before the trainer's first step."""
    finish_codec(trainer, log)
    learn_layout(trainer, log)


def finish_codec(trainer: Trainer, log: Callable[[str], None] = lambda line: None) -> None:
    """Train the codec's finishing network."""
    codec, optimizer = trainer.pipe.vae.train(), torch.optim.AdamW(trainer.pipe.vae.parameters(), 1e-3)
    for step in range(trainer.settings.finish_steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1, 2 * (1 - step / trainer.settings.finish_steps))
        generator = trainer.generator(step, stream=1)
        pictures, _, _ = trainer.pictures(generator, 16)
        with torch.no_grad():
            latents = codec.encode(pictures)
            amount = 0.35 * torch.rand(len(latents), 1, 1, 1, generator=generator).to(latents)
            rough = codec.rough(latents + amount * torch.randn(latents.shape, generator=generator).to(latents))
        with torch.autocast(torch.device(trainer.device).type, torch.bfloat16, trainer.fast.dtype == torch.bfloat16):
            finished = codec.smoothed(rough)
        loss = l1_loss(finished, pictures)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % 250 == 0:
            log(f"codec {step:,}: error {loss.item():.4f}, {l1_loss(rough, pictures).item():.4f} before")
    codec.eval().requires_grad_(False)


def learn_layout(trainer: Trainer, log: Callable[[str], None] = lambda line: None) -> None:
    """Train the text encoder to tell what drawings of a caption have in common."""
    encoder, settings, device = trainer.trained["text_encoder"], trainer.settings, trainer.device
    steps, longest = settings.layout_steps, trainer.words.rows.shape[1]
    optimizer = torch.optim.AdamW(encoder.parameters(), 1e-3, weight_decay=0.01)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1, (step + 1) / 100, 2 * (1 - step / steps))
        generator = trainer.generator(step, stream=2)
        torch.manual_seed(settings.seed * 1_000_003 + step)
        caption = torch.randint(len(trainer.means), (128,), generator=generator)
        kept = torch.rand(128, longest, generator=generator) >= settings.no_word
        words = trainer.words.of(caption.to(device))
        words = Words(words.rows * kept.to(device), words.parts * kept[..., None].to(device))
        loss = mse_loss(encoder(words).layout, trainer.means[caption])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % 500 == 0 or step == steps - 1:
            log(f"layout {step:,}: error {loss.item():.4f} of {trainer.means.var(0).mean().item():.4f}")
    trainer.average["text_encoder"].load_state_dict(encoder.state_dict())
