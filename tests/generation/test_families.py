"""Real classes of other families than Stable Diffusion 1.5 go the same way: SDXL, SD 3, Flux."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from generation import tiny

from lgrep.errors import ConfigError
from lgrep.generation.loading import require_diffusers
from lgrep.generation.noise import Key, first_noise, noise_shape
from lgrep.generation.painter import Painter


def _clip(width: int = 16, projection: bool = True) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    words = len(tiny.tokenizer())
    config = CLIPTextConfig(bos_token_id=words - 2, eos_token_id=words - 1, hidden_size=width, intermediate_size=32,
                            num_attention_heads=2, num_hidden_layers=2, vocab_size=words, projection_dim=width)  # fmt: skip
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def _t5() -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(vocab_size=80, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2))


def _vae(channels: int) -> Any:
    return require_diffusers().AutoencoderKL(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels, norm_num_groups=4, use_quant_conv=channels == 4, use_post_quant_conv=channels == 4,
        shift_factor=0.0, scaling_factor=1.0,
    )  # fmt: skip


def sdxl() -> Any:
    diffusers = require_diffusers()
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, sample_size=8, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=32, norm_num_groups=4,
        attention_head_dim=(2, 4), use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=8, transformer_layers_per_block=(1, 1), projection_class_embeddings_input_dim=6 * 8 + 16,
    )  # fmt: skip
    return diffusers.StableDiffusionXLPipeline(
        vae=_vae(4), text_encoder=_clip(projection=False), text_encoder_2=_clip(), tokenizer=tiny.tokenizer(),
        tokenizer_2=tiny.tokenizer(), unet=unet, scheduler=diffusers.EulerDiscreteScheduler(), add_watermarker=False,
    )  # fmt: skip


def sd3() -> Any:
    diffusers = require_diffusers()
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=1, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=32, caption_projection_dim=32, pooled_projection_dim=32, out_channels=4,
    )  # fmt: skip
    words = tiny.tokenizer()
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), vae=_vae(4), text_encoder=_clip(),
        tokenizer=words, text_encoder_2=_clip(), tokenizer_2=words, text_encoder_3=None, tokenizer_3=None,
    )  # fmt: skip


def flux() -> Any:
    diffusers = require_diffusers()
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    words = tiny.tokenizer()
    return diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), vae=_vae(1), text_encoder=_clip(projection=False),
        tokenizer=words, text_encoder_2=_t5(), tokenizer_2=words, transformer=transformer,
    )  # fmt: skip


@pytest.mark.parametrize("build", [sdxl, sd3, flux])
def test_a_batch_is_the_pictures_one_by_one(build: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    pipe = build()
    pipe.set_progress_bar_config(disable=True)
    painter = Painter(pipe, tiny.settings(size=16, guidance_scale=3.0), "cpu")
    keys = [Key(0, "a", 0), Key(0, "b", 0), Key(0, "a", 1)]
    texts = ["a red cat", "a dog", "a red cat"]
    pixels, status, _ = painter(texts, keys, 3)
    assert pixels.shape == (3, 16, 16, 3) and status == ["ok"] * 3
    assert not np.array_equal(pixels[0], pixels[2])
    for number in range(3):
        alone = painter(texts[number : number + 1], keys[number : number + 1], 3)[0][0]
        assert np.abs(alone.astype(int) - pixels[number].astype(int)).max() <= 1
    assert set(painter.facts["parts"]) >= {"vae", "text_encoder", "tokenizer"}


@pytest.mark.parametrize("build", [tiny.pipeline, sdxl, sd3, flux])
def test_the_noise_has_the_shape_that_the_pipeline_draws(build: Callable[[], Any]) -> None:
    pipe = build()
    core = getattr(pipe, "unet", None) or pipe.transformer
    channels = core.config.in_channels // (4 if build is flux else 1)
    drawn = pipe.prepare_latents(2, channels, 32, 16, torch.float32, "cpu", torch.Generator(), None)
    latents = drawn[0] if isinstance(drawn, tuple) else drawn
    assert first_noise([Key(0, "a", 0)] * 2, noise_shape(pipe, 32, 16)).shape == latents.shape


def test_solvers_with_noise_of_their_own_are_repeatable_too() -> None:
    changed = {"scheduler": "EulerAncestralDiscreteScheduler"}
    painter = Painter(tiny.prepared(changed), tiny.settings(**changed), "cpu")
    keys = [Key(0, "a", 0), Key(0, "b", 0)]
    both = painter(["a cat", "a dog"], keys, 2)[0]
    alone = painter(["a dog"], keys[1:], 2)[0][0]
    assert np.abs(alone.astype(int) - both[1].astype(int)).max() <= 1


def test_captions_beyond_the_text_encoder_are_told() -> None:
    painter = Painter(tiny.shared_pipeline(), tiny.settings(), "cpu")
    assert painter.too_long(["a cat", "x" * 76, "x" * 75]) == [False, True, False]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 15}, r"draws multiples of 2 px. Type generator\.size=16"),
        ({"options": {"strenght": 1}}, r"generator\.strenght"),
    ],
)
def test_what_a_pipeline_cannot_do(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Painter(tiny.shared_pipeline(), tiny.settings(**changes), "cpu")


def test_verdicts_of_the_safety_checker() -> None:
    texts, keys = ["a cat"] * 6, [Key(0, "a", index) for index in range(6)]
    pipe = tiny.pipeline(checker=True)
    pipe.set_progress_bar_config(disable=True)
    checker = pipe.safety_checker
    for name in ("concept_embeds_weights", "special_care_embeds_weights"):
        getattr(checker, name).data.fill_(2.0)  # no cosine is above 2
    recorded = Painter(pipe, tiny.settings(safety="record"), "cpu")
    pixels, status, flagged = recorded(texts, keys, 6)
    assert flagged == [False] * 6
    checker.concept_embeds_weights.data.fill_(-2.0)
    same, status, flagged = recorded(texts, keys, 6)
    assert flagged == [True] * 6 and status == ["ok"] * 6
    assert np.array_equal(pixels, same)  # nothing is painted over
    pipe.safety_checker = checker
    excluding = Painter(pipe, tiny.settings(safety="exclude"), "cpu")
    assert excluding(texts, keys, 6)[1] == ["unsafe"] * 6
    assert "safety_checker" in excluding.facts["parts"]
