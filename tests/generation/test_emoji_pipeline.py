"""The package's own text-to-image model: parts against independent ones, the pipeline's promises, its training."""

from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch.nn.functional import pixel_unshuffle

from lgrep.data.emoji import open_emoji
from lgrep.errors import CheckpointError, ConfigError
from lgrep.generation import emoji_training
from lgrep.generation.emoji_drawings import Drawings, augment, training_drawings
from lgrep.generation.emoji_pipeline import EmojiPipeline, load_emoji_pipeline
from lgrep.generation.emoji_stages import prepare
from lgrep.generation.emoji_training import GeneratorTraining, Trainer, build_pipeline, load_checkpoint, save_checkpoint
from lgrep.generation.patch_codec import PatchCodec
from lgrep.generation.text_encoder import CaptionEncoder, words_of

CAPTIONS = ["red apple", "cat face", "dog"]


@pytest.fixture(scope="module")
def pipe() -> EmojiPipeline:
    found = load_emoji_pipeline()
    found.set_progress_bar_config(disable=True)
    return found


@pytest.fixture
def few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(0).normal(size=(4, 50)).astype(np.float32)
    monkeypatch.setattr(emoji_training, "glove_words", lambda count, also: (["red", "apple", "cat", "the"], vectors))


def noise(pipe: EmojiPipeline, count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, *pipe.noise_shape(), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def train() -> Drawings:
    return training_drawings()


def few_drawings() -> Drawings:
    rng = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 256, (12, 3, 8, 8), generator=rng).float()
    pixels = torch.nn.functional.interpolate(coarse, size=64, mode="bicubic").clamp(0, 255).to(torch.uint8)
    caption, designer = torch.arange(12) // 4, torch.arange(12) % 4
    return Drawings(pixels, caption, designer, caption == 0, ["red arrow", "apple", "cat face"])


def test_sees_train_captions_of_seen_designers_only(train: Drawings) -> None:
    table = open_emoji()
    folds = dict(zip(table.captions["text"].to_pylist(), table.captions["fold"].to_pylist(), strict=True))
    allowed = {text for text, fold in folds.items() if fold in (2, 3, 4)}
    assert set(train.captions) == allowed and len(allowed) == 954
    fold, designer = table.caption_column("fold")[table.group], table.column("designer").astype(str)
    assert len(train.pixels) == np.sum(np.isin(fold, (2, 3, 4)) & (designer != "twemoji"))


def test_codec_is_principal_component_analysis_of_patches() -> None:
    pictures = torch.randn(40, 3, 16, 16, generator=torch.Generator().manual_seed(0)).cumsum(3).div(10).clamp(-1, 1)
    codec = PatchCodec(patch=8, latent_channels=20)
    codec.fit(pictures)
    patches = pixel_unshuffle(pictures, 8).movedim(1, -1).reshape(-1, 192).numpy()
    analysis = PCA(20).fit(patches)
    expected = analysis.inverse_transform(analysis.transform(patches))
    latents = codec.encode(pictures)
    found = pixel_unshuffle(codec.rough(latents), 8).movedim(1, -1).reshape(-1, 192)
    np.testing.assert_allclose(found, np.clip(expected, -1, 1), atol=1e-4)
    deviations = latents.movedim(1, -1).reshape(-1, 20).std(0, correction=0)
    roots = np.sqrt(analysis.transform(patches).std(0))
    np.testing.assert_allclose(deviations, roots / np.sqrt((roots**2).mean()), rtol=1e-3)


def test_codec_keeps_real_drawings(pipe: EmojiPipeline, train: Drawings) -> None:
    pictures = train.pixels[::200].float() / 127.5 - 1
    with torch.no_grad():
        latents = pipe.vae.encode(pictures)
        rough, finished = pipe.vae.rough(latents), pipe.vae.decode(latents)
    assert (finished - pictures).abs().mean() < 0.9 * (rough - pictures).abs().mean() < 0.06


def test_mirroring_and_turning_are_exact() -> None:
    pictures = torch.rand(3, 3, 8, 8) * 2 - 1
    amounts = torch.zeros(3, 5)
    amounts[1, 4] = 1
    found = augment(pictures, amounts)
    torch.testing.assert_close(found[0], pictures[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[1], pictures[1].flip(2), atol=1e-5, rtol=0)
    amounts[2, 0] = 1 / 0.08  # one half of the side
    torch.testing.assert_close(augment(pictures, amounts)[2, :, :, :4], pictures[2, :, :, 4:], atol=1e-5, rtol=0)
    assert torch.allclose(augment(pictures, amounts)[2, :, :, 4:], torch.ones(3, 8, 4), atol=1e-5)  # white outside


def test_reads_any_caption(pipe: EmojiPipeline) -> None:
    encoder = pipe.text_encoder
    long = " ".join(["word"] * encoder.max_words)
    texts = ["", "naïve Café", "naive cafe", long, long + " more", "qwrtzpsdf", "qwrtzpsdg", "日本", "!?", "\ud800"]
    with torch.no_grad():
        found = encoder(encoder.read(texts))
        alone = encoder(encoder.read(["qwrtzpsdf"]))
    assert found.sequence.isfinite().all()
    assert found.mask.sum(1).tolist() == [1, 3, 3, 16, 16, 2, 2, 2, 1, 1]
    assert torch.equal(found.sequence[1], found.sequence[2]) and torch.equal(found.sequence[3], found.sequence[4])
    assert not torch.allclose(found.sequence[5], found.sequence[6], atol=1e-3)  # words that nobody knows still differ
    torch.testing.assert_close(alone.sequence[0], found.sequence[5], atol=1e-5, rtol=1e-5)
    assert pipe.too_long(["", long, long + " more"]) == [False, False, True]
    assert words_of("CAT's “Ünder-dog”_2") == ["cat's", "under", "dog", "2"]


def test_fewer_columns_say_the_same() -> None:
    encoder = CaptionEncoder(1, 1).eval()
    words = encoder.read(["red apple", "cat"])
    with torch.no_grad():
        whole = encoder(words)
        short = encoder(type(words)(words.rows[:, :2], words.parts[:, :2]))
    torch.testing.assert_close(short.sequence, whole.sequence[:, :3])


def test_rows_depend_on_their_own_noise(pipe: EmojiPipeline) -> None:
    start = noise(pipe, 3)
    found = pipe(CAPTIONS, num_inference_steps=3, latents=start, output_type="pt").images
    again = pipe(CAPTIONS, num_inference_steps=3, latents=start.clone(), output_type="pt").images
    alone = pipe(CAPTIONS[1], num_inference_steps=3, latents=start[1:2], output_type="pt").images
    assert torch.equal(found, again) and found.shape == (3, 3, 64, 64)
    torch.testing.assert_close(alone[0], found[1], atol=1e-3, rtol=0)
    other = pipe(CAPTIONS, num_inference_steps=3, latents=noise(pipe, 3, 1), output_type="pt").images
    assert (other - found).abs().mean() > 0.02


def test_solver_and_guidance_equal_a_loop_by_hand(pipe: EmojiPipeline) -> None:
    start, scale, steps = noise(pipe, 2), 3.0, 4
    own = EmojiPipeline(**{**pipe.components, "scheduler": diffusers.DDIMScheduler.from_config(
        pipe.scheduler.config, clip_sample=False, timestep_spacing="leading", set_alpha_to_one=True)})  # fmt: skip
    own.set_progress_bar_config(disable=True)
    found = own(CAPTIONS[:2], num_inference_steps=steps, guidance_scale=scale, latents=start,
                negative_prompt="dog", designer="noto", output_type="latent").images  # fmt: skip
    signal = torch.cos((torch.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2).double() ** 2
    signal = (1 - (1 - signal[1:] / signal[:-1]).clamp(max=0.999)).cumprod(0).float()
    latents, style = start, torch.zeros(2, dtype=torch.long)
    for moment in (750, 500, 250, 0):
        velocity = {}
        for name, texts in {"with": CAPTIONS[:2], "without": ["dog", "dog"]}.items():
            with torch.no_grad():
                told = pipe.text_encoder(pipe.text_encoder.read(texts), style)
                velocity[name] = pipe.transformer(
                    torch.cat([latents, told.layout], 1),
                    told.sequence,
                    torch.full((2,), moment),
                    {},
                    encoder_attention_mask=told.mask,
                ).sample
        guided = velocity["without"] + scale * (velocity["with"] - velocity["without"])
        a, b = signal[moment].sqrt(), (1 - signal[moment]).sqrt()
        clean, rest = a * latents - b * guided, a * guided + b * latents
        before = signal[moment - 250] if moment else torch.tensor(1.0)
        latents = before.sqrt() * clean + (1 - before).sqrt() * rest
    torch.testing.assert_close(found, latents, atol=2e-3, rtol=1e-3)


def test_guidance_of_one_and_own_negative_are_no_guidance(pipe: EmojiPipeline) -> None:
    start = noise(pipe, 1)
    plain = pipe("cat", num_inference_steps=2, guidance_scale=1, latents=start, output_type="np").images
    negative = pipe(
        "cat", num_inference_steps=2, guidance_scale=7, negative_prompt="cat", latents=start, output_type="np"
    )
    np.testing.assert_allclose(negative.images, plain, atol=1e-3)
    guided = pipe("cat", num_inference_steps=2, guidance_scale=7, latents=start, output_type="np").images
    assert np.abs(guided - plain).mean() > 0.01


def test_designers_are_drawn_from_the_noise(pipe: EmojiPipeline) -> None:
    styles = pipe._styles("any", noise(pipe, 1000))
    assert styles.bincount(minlength=5).min() > 150 and len(styles.bincount()) == 5
    assert torch.equal(pipe._styles("any", noise(pipe, 1000)[7:8]), styles[7:8])
    assert pipe._styles(["noto", "fxemoji"], noise(pipe, 2)).tolist() == [0, 4]


@pytest.mark.parametrize(
    "name", ["EulerDiscreteScheduler", "DDPMScheduler", "UniPCMultistepScheduler", "HeunDiscreteScheduler"]
)
def test_takes_other_schedulers_and_sizes(pipe: EmojiPipeline, name: str) -> None:
    own = EmojiPipeline(**{**pipe.components, "scheduler": getattr(diffusers, name).from_config(pipe.scheduler.config)})
    own.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 1)]
    images = own(["cat", "cat"], height=32, width=48, num_inference_steps=3, generator=generators).images
    assert [image.size for image in images] == [(48, 32)] * 2
    assert images[0].tobytes() == images[1].tobytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"height": 40}, "multiples of 16"),
        ({"latents": torch.zeros(2, 64, 4, 4)}, "1 captions"),
        ({"designer": "notto"}, "'noto'"),
        ({"negative_prompt": ["a", "b"]}, "2 texts for 1"),
        ({"generator": [torch.Generator()] * 2}, "2 generators for 1"),
    ],
)
def test_wrong_arguments_are_named(pipe: EmojiPipeline, arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        pipe("cat", **arguments)


def test_package_is_small_and_is_copied_whole(pipe: EmojiPipeline, tmp_path: Path) -> None:
    folder = Path(emoji_training.__file__).parent / "emoji"
    assert sum(path.stat().st_size for path in folder.rglob("*")) <= 10_000_000
    pipe.save_pretrained(tmp_path)
    for copied in (load_emoji_pipeline(tmp_path), EmojiPipeline.from_pretrained(tmp_path, local_files_only=True)):
        for name in ("transformer", "text_encoder", "vae"):
            state = getattr(copied, name).state_dict()
            assert all(torch.equal(value, state[key]) for key, value in getattr(pipe, name).state_dict().items())
        assert copied.scheduler.config.prediction_type == "v_prediction"


def test_missing_or_broken_weights_are_named(pipe: EmojiPipeline, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="train_generator"):
        load_emoji_pipeline(tmp_path)
    pipe.save_pretrained(tmp_path)
    weights = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_emoji_pipeline(tmp_path)


@pytest.mark.usefixtures("few_words")
def test_resumed_training_is_the_same_training(tmp_path: Path) -> None:
    settings = GeneratorTraining(
        steps=10, batch_size=4, finish_steps=1, layout_steps=2, channels=32, layers=1, width=32
    )

    def trainer() -> Trainer:
        return Trainer(settings, few_drawings(), build_pipeline(settings, few_drawings()))

    whole, first, second = trainer(), trainer(), trainer()
    prepare(whole)
    losses = [whole.train_step().item() for _ in range(4)]
    prepare(first)
    assert [first.train_step().item() for _ in range(2)] == losses[:2]
    save_checkpoint(first.state(), tmp_path / "checkpoint.pt")
    second.load_state(load_checkpoint(tmp_path / "checkpoint.pt"))
    assert [second.train_step().item() for _ in range(2)] == losses[2:]
    for one, other in ((whole.average, second.average), (whole.pipe.vae, second.pipe.vae)):
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    second.save_pipeline(tmp_path / "pipeline")
    saved = load_emoji_pipeline(tmp_path / "pipeline")
    weight = saved.transformer.pos_embed.proj.weight
    assert torch.equal(weight, second.average["transformer"].pos_embed.proj.weight.half().float())
    other = Trainer(GeneratorTraining(seed=1), few_drawings(), saved)
    with pytest.raises(CheckpointError, match="batch_size=4"):
        other.load_state(second.state())


@pytest.mark.usefixtures("few_words")
def test_steps_lower_the_loss_of_their_batch() -> None:
    settings = GeneratorTraining(
        steps=20, batch_size=4, finish_steps=0, channels=32, layers=1, width=32, learning_rate=1e-2, precision="float32"
    )
    trainer = Trainer(settings, few_drawings(), build_pipeline(settings, few_drawings()))
    losses = []
    for _ in range(20):
        trainer.step = 5  # the same drawings, noise and moments again
        losses.append(trainer.train_step().item())
    assert losses[-1] < 0.8 * losses[0]
