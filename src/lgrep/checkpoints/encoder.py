"""The one way in for notebooks, evaluators and miners: a name or a file becomes an encoder and its transform."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lgrep.backbones.registry import LIBRARIES, build_backbone
from lgrep.checkpoints.heads import FEATURES, split_features, with_projector
from lgrep.checkpoints.published import Published, read_plain, read_published
from lgrep.checkpoints.strict import below, load_strictly
from lgrep.checkpoints.transform import FILTERS, EvaluationTransform, library_transform
from lgrep.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from lgrep.errors import CheckpointError, ConfigError, did_you_mean

PIXELS_SIZE = 24
PREFIX = "backbone."
WEIGHTS, DESCRIPTION = "model.safetensors", "config.json"  # of an exported folder
# options with which a library would open a file or a download that the checkpoint names
_UNSAFE_OPTIONS = frozenset(
    [
        "checkpoint_path",
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "pretrained_hf",
        "pretrained_image",
        "weights",
        "weights_backbone",
        "cache_dir",
        "hf_hub_id",
        "cfg",
        "features_only",
    ]
)


class Pixels(nn.Module):
    """Pictures [B, 3, H, W] -> [B, 3 H W]: the baseline that learns nothing."""

    def __init__(self, size: int = PIXELS_SIZE) -> None:
        super().__init__()
        self.name, self.options, self.dim = "pixels", {"size": size}, 3 * size * size

    def forward(self, pictures: Tensor) -> Tensor:
        return pictures.flatten(1)


def load_encoder(
    name_or_path: str | Path,
    image_size: int | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> tuple[nn.Module, EvaluationTransform]:
    """An image encoder in evaluation mode and the transform of its pictures.

    Args:
        name_or_path: a run folder (its `checkpoints/last.ckpt`; in a folder of runs the newest), a checkpoint file, a file
            that others published (`lgrep.checkpoints.formats`), a folder that `scripts/convert_checkpoint.py` wrote, a
            public model (`timm/NAME`, `torchvision/NAME`, `open_clip/NAME`, `open_clip/NAME/WEIGHTS` or a bare NAME;
            pre-trained weights),
            `random/NAME` (the same network with random weights) or `pixels` (24 px, flattened). A run or checkpoint of
            this project may end in `:projector`, whose features are its projector's output, or `:both`: the backbone's
            and the projector's, each L2-normalised, side by side.
        image_size: side of the pictures in px; None takes the checkpoint's or the library's, 24 for pixels.
        device: where the encoder is put.
        seed: draws the weights of `random/NAME`; the global generator is left alone.

    Returns:
        (encoder: float pictures [B, 3, H, W] -> features [B, D], with `.dim`, `.name` and `.options`;
        transform, a dataclass: `dataclasses.replace(transform, mean=..., std=...)` for `pixels` and
        `random/NAME`, which know nothing of the pictures and get the library's or ImageNet's statistics).

    Raises:
        ConfigError: an unknown name, with the nearest known ones, or a projector that is not there.
        CheckpointError: a missing, damaged or unfitting checkpoint, or weights that cannot be downloaded.

    Example:
        >>> from PIL import Image
        >>> encoder, transform = load_encoder("random/timm/test_resnet", image_size=48)
        >>> encoder(transform(Image.new("RGB", (64, 80)))[None]).shape[1] == encoder.dim
        True
    """
    name, features = split_features(str(name_or_path))
    encoder: nn.Module
    if features != "backbone" and (_of_library(name) or "/" not in name) and not is_checkpoint(name):
        raise ConfigError(f"{name}:{features}: only checkpoints of lgrep have projectors. Type {name}, or a run folder")
    if name == "pixels":
        size = image_size or PIXELS_SIZE
        encoder, transform = Pixels(size), EvaluationTransform(size)
    elif name == "random" or name.startswith("random/"):
        encoder = random_encoder(name.partition("/")[2], image_size, seed)
        transform = library_transform(encoder, image_size)
    elif is_checkpoint(name):
        encoder, transform = _from_checkpoint(Path(name), image_size, features)
    else:
        encoder = _public(name, image_size)
        transform = library_transform(encoder, image_size)
    return encoder.eval().to(device), transform


def random_encoder(name: str, image_size: int | None = None, seed: int = 0, **options: Any) -> nn.Module:
    """A registry backbone with the random weights of `seed`; the global generator is left alone.

    Raises:
        ConfigError: unknown or empty name.
    """
    if not name:
        raise ConfigError("'random' needs the name of a network: type for example random/timm/test_resnet")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_backbone(name, image_size=image_size, **options)


def is_checkpoint(name: str) -> bool:
    """Whether `load_encoder` takes `name` for a file or folder rather than for a model."""
    name, _ = split_features(name)
    path_like = name.startswith(("/", "./", "../")) or name.endswith(
        (".ckpt", ".pt", ".pth", ".pth.tar", ".safetensors")
    )
    return not _of_library(name) and (path_like or Path(name).exists() or _with_other_features(name) is not None)


def _of_library(name: str) -> bool:
    """Whether a name is of a model by its first part, whatever files there are."""
    return name.split("/")[0] in (*LIBRARIES, "random", "pixels")


def checkpoint_file(path: Path) -> Path:
    """The checkpoint of a run folder (`checkpoints/last.ckpt`; of the newest run below it), or the file itself.

    Raises:
        CheckpointError: there is none.
    """
    if path.is_file():
        return path
    last = path / "checkpoints" / "last.ckpt"
    if last.is_file():
        return last
    if not path.exists():
        meant = _with_other_features(str(path))
        hint = "" if meant is None else f"; {did_you_mean(meant[1], FEATURES)} Type {meant[0]}:both, for example"
        raise CheckpointError(f"there is no checkpoint or run folder at {path}{hint}")
    runs = sorted(path.glob("**/checkpoints/last.ckpt"), key=lambda file: file.stat().st_mtime)
    if runs:
        return runs[-1]
    others = sorted(path.glob("**/*.ckpt"))
    hint = f"it has {others[0]}: name that file" if others else "has the run written a checkpoint yet?"
    raise CheckpointError(f"{path} has no checkpoints/last.ckpt; {hint}")


def _with_other_features(name: str) -> tuple[str, str] | None:
    """What stands before and after the last colon, where the first is there: a misspelt `RUN:both`."""
    run, _, features = name.rpartition(":")
    return (run, features) if run and Path(run).exists() else None


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The dict of a checkpoint of this project, read without executing anything in it.

    Raises:
        CheckpointError: missing, damaged, holding other objects than tensors and plain types, or foreign.
    """
    file = checkpoint_file(Path(path))
    return _own(read_plain(file), file)


def project_checkpoint(path: str | Path) -> dict[str, Any] | None:
    """The dict of a checkpoint of this project; None for an exported folder or a file that others published.

    Raises:
        CheckpointError: missing or damaged, or holding other objects than tensors and plain types.
    """
    if (Path(path) / DESCRIPTION).is_file():
        return None
    file = checkpoint_file(Path(path))
    content = read_plain(file)
    return _own(content, file) if "lgrep" in content else None


def _own(content: dict[str, Any], file: Path) -> dict[str, Any]:
    if not isinstance(content.get("lgrep"), dict) or "state_dict" not in content:
        found = sorted(map(str, content))[:8]
        raise CheckpointError(f"{file} was not written by lgrep: it needs 'state_dict' and 'lgrep', and has {found}")
    return content


def _from_checkpoint(path: Path, image_size: int | None, features: str) -> tuple[nn.Module, EvaluationTransform]:
    """A run, a checkpoint of this project, an exported folder or a published file."""
    exported = (path / DESCRIPTION).is_file() and (path / WEIGHTS).is_file()
    file = path if exported else checkpoint_file(path)
    content = {} if exported else read_plain(file)
    if "lgrep" not in content:
        if features != "backbone":
            raise ConfigError(f"{path}:{features}: only checkpoints of lgrep's training have projectors. Type {path}")
        if exported:
            return _rebuilt(*_exported(path), path, image_size)
        return published_encoder(read_published(file, content=content), file, image_size)
    about, states = _own(content, file)["lgrep"], content["state_dict"]
    backbone, transform = _rebuilt(about, below(states, PREFIX), file, image_size)
    return with_projector(backbone.eval(), about, states, features, path), transform


def published_encoder(
    found: Published, file: Path, image_size: int | None = None
) -> tuple[nn.Module, EvaluationTransform]:
    """The network of a published file with its weights; ImageNet's statistics.

    Raises:
        CheckpointError: weights that do not fit the network.
    """
    image = {"size": found.image_size, "mean": IMAGENET_MEAN, "std": IMAGENET_STD, "interpolation": found.interpolation}
    about = {"backbone": {"name": found.backbone, "options": found.options}, "image": image}
    return _rebuilt(about, found.states, file, image_size)


def _exported(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and weights of a folder that `lgrep.checkpoints.exporting` wrote."""
    states = read_plain(folder / WEIGHTS)
    try:
        about = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        settings = about["pretrained_cfg"]
        image = {"size": settings["input_size"][-1], **{key: settings[key] for key in ("mean", "std", "interpolation")}}
        return {"backbone": about["lgrep"], "image": image}, states
    except (ValueError, KeyError, TypeError, LookupError) as error:
        raise CheckpointError(
            f"{folder / DESCRIPTION} does not describe an exported encoder: {_line(error)}"
        ) from error


def _rebuilt(
    about: Mapping[str, Any], states: Mapping[str, Tensor], file: Path, image_size: int | None
) -> tuple[nn.Module, EvaluationTransform]:
    name, options, image = _described(about, file)
    size = image_size or int(image["size"])
    own_size = options.pop("image_size", None)
    try:
        with torch.random.fork_rng(devices=[]):
            encoder = build_backbone(name, image_size=size if own_size is not None else None, **options)
    except ConfigError as error:
        raise CheckpointError(f"the backbone of {file} cannot be rebuilt: {error}") from error
    load_strictly(encoder, states, file)
    interpolation = str(image.get("interpolation", "bilinear"))
    if interpolation not in FILTERS:
        raise CheckpointError(f"{file} asks for interpolation '{interpolation}'; known: {', '.join(FILTERS)}")
    return encoder, EvaluationTransform(size, tuple(image["mean"]), tuple(image["std"]), interpolation)


def _described(about: Mapping[str, Any], file: Path) -> tuple[str, dict[str, Any], Mapping[str, Any]]:
    """Name and options of the backbone, and the picture settings, checked to be plain and harmless."""
    try:
        name, options, image = about["backbone"]["name"], dict(about["backbone"]["options"]), about["image"]
        complete = isinstance(name, str) and len(image["mean"]) == len(image["std"]) == 3 and int(image["size"]) > 0
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file} does not say which backbone it holds: {_line(error)}") from error
    if not complete:
        raise CheckpointError(f"{file} describes its backbone wrongly: {about['backbone']}, {image}")
    for key, value in options.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        plain = all(item is None or isinstance(item, (bool, int, float, str)) for item in values)
        if key in _UNSAFE_OPTIONS or not plain:
            raise CheckpointError(
                f"{file} gives its backbone the option {key}={value!r}, which a checkpoint may not set"
            )
    return name, options, image


def _public(name: str, image_size: int | None) -> nn.Module:
    library, weights = name.partition("/")[0], ""
    if "/" in name and library not in LIBRARIES:
        raise ConfigError(
            f"'{name}' is no file or folder that is there, and no model ({did_you_mean(library, LIBRARIES)}). Type a "
            "run folder, a checkpoint file, timm/NAME, torchvision/NAME, open_clip/NAME, random/NAME or pixels"
        )
    if library == "open_clip":
        name, weights = "/".join(name.split("/")[:2]), "/".join(name.split("/")[2:])
    try:
        options: dict[str, Any] = {"weights": weights} if weights else {}
        return build_backbone(name, image_size=image_size, pretrained=True, **options)
    except ConfigError as error:
        raise ConfigError(
            f"{error} (models are also a run folder, a checkpoint file, random/NAME or pixels)"
        ) from error
    except Exception as error:  # hubs raise errors of many libraries
        raise CheckpointError(
            f"the public weights of {name} cannot be had: {_line(error)}. Without a network type random/{name}"
        ) from error


def _line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__
