"""The text side of image-text models: sentences -> embeddings that picture embeddings are compared with."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from lgrep.backbones.registry import open_clip_model
from lgrep.backbones.text import build_text_encoder
from lgrep.checkpoints.encoder import is_checkpoint, project_checkpoint
from lgrep.checkpoints.heads import PROJECTOR, guessed_layers, rebuilt_head, split_features
from lgrep.checkpoints.strict import below, load_strictly
from lgrep.data.text.tokenizers import build_tokenizer
from lgrep.errors import CheckpointError, ConfigError
from lgrep.evaluation.contract import TextEncoder
from lgrep.evaluation.features import evaluation_mode

TEXTS_PER_PASS = 256
ROWS_PER_PASS = 8192
# stored caption features (SET/COLUMN) whose frozen encoder is known: name of `lgrep.mining.encoders`
STORED_ENCODERS = {"emoji/embedding": "minilm"}


class Space(nn.Module):
    """One joint space of pictures and texts.

    Args:
        image: features [N, D] -> embeddings [N, E].
        text: features of the text tower [N, W] -> embeddings [N, E].
        logit_scale: multiplier of cosines that the model was trained with.
    """

    def __init__(self, image: nn.Module, text: nn.Module, logit_scale: float) -> None:
        super().__init__()
        self.image, self.text, self.logit_scale = image, text, logit_scale


class TextSide(nn.Module):
    """A text tower and the spaces where its texts meet pictures; a `TextEncoder` of the first space.

    Args:
        tower: list of texts -> features [N, W].
        spaces: by name; CLIP-rocket has `z` (weak heads) and `h` (strong heads), other models have one.
    """

    def __init__(self, tower: nn.Module, spaces: Mapping[str, Space]) -> None:
        super().__init__()
        self.tower = tower
        self.spaces = nn.ModuleDict(spaces)
        self.eval()

    def embed(self, texts: list[str]) -> dict[str, Tensor]:
        """Unit float32 embeddings [N, E] of texts in every space, on the CPU."""
        parts: dict[str, list[Tensor]] = {name: [] for name in self.spaces}
        with evaluation_mode(self):
            for start in range(0, len(texts), TEXTS_PER_PASS):
                features = self.tower(texts[start : start + TEXTS_PER_PASS])
                for name, space in self.spaces.items():
                    parts[name].append(normalize(_apply(cast(Space, space).text, features).float(), dim=1).cpu())
        # normal tensors: those of inference mode cannot be used where gradients are recorded
        return {name: torch.cat(part).clone() if part else torch.zeros(0, 0) for name, part in parts.items()}

    def place(self, features: Tensor, space: str | None = None) -> Tensor:
        """Unit float32 embeddings [N, E] of picture features [N, D] in a space (the first when None), on the CPU."""
        head = cast(Space, self.spaces[space or next(iter(self.spaces))]).image
        with evaluation_mode(self):
            blocks = [
                normalize(_apply(head, features[start : start + ROWS_PER_PASS]).float(), dim=1).cpu()
                for start in range(0, max(1, len(features)), ROWS_PER_PASS)
            ]
        return torch.cat(blocks).clone()

    def forward(self, texts: list[str]) -> Tensor:
        """Unit float32 embeddings [N, E] of texts in the first space."""
        return next(iter(self.embed(texts).values()))


def text_side(
    name: str, encoder: nn.Module, seed: int = 0
) -> tuple[TextEncoder, Callable[[Tensor], Tensor], float] | None:
    """The text side of a model, if it has one.

    Args:
        name: what `load_encoder` took: `open_clip/MODEL[/WEIGHTS]`, `random/open_clip/MODEL`, or a checkpoint or run
            folder of this project trained with a language objective.
        encoder: what `load_encoder` gave.
        seed: of `load_encoder`.

    Returns:
        (text encoder, a `TextSide`; picture features [N, D] -> unit embeddings [N, E]; logit scale) or None: a model of
        pictures only, a checkpoint written before language sides were described, or one that this machine cannot
        rebuild (a warning says why).

    Raises:
        CheckpointError: weights that do not fit their description.
    """
    side: TextSide | None = None
    if split_features(name)[1] != "backbone":  # texts meet the backbone's features
        return None
    bare = name.removeprefix("random/")
    if bare.startswith("open_clip/"):
        side = _of_open_clip(bare, dict(getattr(encoder, "options", {})), seed if bare != name else None)
    elif is_checkpoint(name):
        side = _of_checkpoint(name)
    if side is None:
        return None
    return side, side.place, cast(Space, next(iter(side.spaces.values()))).logit_scale


def _apply(head: nn.Module, features: Tensor) -> Tensor:
    """A head's output, where and as its weights are."""
    weight = next(head.parameters(), features)
    output: Tensor = head(features.to(weight))
    return output


def on_device(text: TextEncoder, device: torch.device) -> TextEncoder:
    """The text encoder, moved to a device if it can be."""
    return text.to(device) if isinstance(text, TextSide) else text


class _Tokenised(nn.Module):
    """Texts through a tokeniser and a tower of token ids."""

    def __init__(self, tokenise: Callable[[list[str]], Any], tower: nn.Module) -> None:
        super().__init__()
        self.tokenise, self.tower = tokenise, tower

    def forward(self, texts: list[str]) -> Tensor:
        device = next(self.tower.parameters()).device
        features: Tensor = self.tower(torch.as_tensor(self.tokenise(texts)).to(device))
        return features


class _Sentences(nn.Module):
    """A frozen encoder of the miner."""

    def __init__(self, encode: Callable[[list[str]], Any]) -> None:
        super().__init__()
        self.encode = encode

    def forward(self, texts: list[str]) -> Tensor:
        return normalize(torch.from_numpy(self.encode(texts)), dim=1)


class _OpenClipTexts(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        features: Tensor = self.model.encode_text(tokens)  # type: ignore[operator]
        return features


def _of_open_clip(name: str, options: dict[str, Any], seed: int | None) -> TextSide:
    """The other half of an image tower; a seed draws both halves again, None loads public weights."""
    model, _, weights = name.partition("/")[2].partition("/")
    size = options.get("image_size")
    options = {"force_image_size": size} if size is not None else {}
    tokenizer = build_tokenizer(f"open_clip:{model}")
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        network = open_clip_model(model, None if seed is not None else weights or "openai", **options)
    network.visual = nn.Identity()  # the encoder has it already
    scale = float(network.logit_scale.detach().exp())
    # the whole network stays in memory, as the text tower of some models is spread over its attributes
    return TextSide(_Tokenised(tokenizer, _OpenClipTexts(network)), {"z": Space(nn.Identity(), nn.Identity(), scale)})


def _of_checkpoint(name: str) -> TextSide | None:
    content = project_checkpoint(name)
    if content is None:
        return None
    about, states = content["lgrep"].get("language"), content["state_dict"]
    if about is None:
        return None
    try:
        tower = _tower(about, states, name)
        projector = content["lgrep"].get(PROJECTOR)
        spaces = {str(key): _space(value, states, about, projector) for key, value in about["spaces"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{name} describes its language side wrongly ({type(error).__name__}: {error})"
        ) from error
    except ConfigError as error:  # a missing package, or a tokeniser or tower of the user's own module
        warnings.warn(f"the text side of {name} is left out: {error}", stacklevel=3)
        return None
    if not spaces:
        return None
    return TextSide(tower, spaces)


def _tower(about: Mapping[str, Any], states: Mapping[str, Tensor], name: str) -> nn.Module:
    kind, options = str(about["tower"]["name"]), dict(about["tower"]["options"])
    if kind == "features":
        return _stored_encoder(str(about["stored"]))
    unsafe = [key for key, value in options.items() if not isinstance(value, int | float | bool)]
    if unsafe:
        raise CheckpointError(f"{name} gives its text tower the options {unsafe}, which a checkpoint may not set")
    length = int(about["context_length"])
    tokenizer = build_tokenizer(str(about["tokenizer"]), length)
    with torch.random.fork_rng(devices=[]):
        tower = build_text_encoder(kind, int(about["vocab_size"]), length, **options)
    load_strictly(tower, below(states, "language.tower."), name)
    return _Tokenised(tokenizer, tower)


def _stored_encoder(stored: str) -> nn.Module:
    """The frozen encoder behind stored caption features."""
    if stored not in STORED_ENCODERS:
        raise ConfigError(
            f"it was trained on stored caption features ({stored or 'unnamed'}), and their encoder is not known. Known: "
            f"{', '.join(STORED_ENCODERS)}; others: lgrep.evaluation.text_models.STORED_ENCODERS['SET/COLUMN'] = 'NAME'"
        )
    from lgrep.mining.encoders import EncoderOptions, build_encoder

    encoder: Any = build_encoder(STORED_ENCODERS[stored], cast(Any, None), EncoderOptions())
    return _Sentences(encoder.encode_texts)


def _space(
    about: Mapping[str, str],
    states: Mapping[str, Tensor],
    language: Mapping[str, Any],
    projector: dict[str, str] | None,
) -> Space:
    scale = states[about["logit_scale"]]
    if about["image"] == PROJECTOR and projector:
        layers = projector
    else:  # older checkpoints name only the activation of a projector
        layers = guessed_layers(about["image"], states, str(language.get("activation", "relu")))
    image = rebuilt_head(about["image"], states, layers)
    text = rebuilt_head(about["text"], states, guessed_layers(about["text"], states, "relu"))
    return Space(image, text, float(scale.float().exp()))
