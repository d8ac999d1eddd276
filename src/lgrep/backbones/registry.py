"""Backbones by name: one function from a string to an image encoder.

Names are `<library>/<model>`: `timm/vit_base_patch16_224`, `torchvision/resnet50`, `open_clip/ViT-B-32`.
A bare name is looked up in timm, then in torchvision.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from lgrep.errors import ConfigError, did_you_mean

LIBRARIES = ("timm", "torchvision", "open_clip")
STEMS = ("conv3", "light")


class Backbone(nn.Module):
    """What every image encoder made here offers; the library's own module with three attributes added.

    Attributes:
        dim: D of the features.
        name: registry name that rebuilds it.
        options: plain keyword arguments that rebuild it (without `pretrained`).
    """

    dim: int
    name: str
    options: dict[str, Any]


def build_backbone(
    name: str,
    image_size: int | None = None,
    pretrained: bool = False,
    several_sizes: bool = False,
    **options: Any,
) -> Backbone:
    """Build an image encoder that maps pictures [B, 3, H, W] to pooled features [B, D].

    State-dict keys are the library's own, so that checkpoints travel without renaming.

    Args:
        name: `timm/...`, `torchvision/...`, `open_clip/...` or a bare timm or torchvision name.
        image_size: side of the pictures in pixels; needed by ViTs with another size than their default.
        pretrained: load the library's public weights (downloads them).
        several_sizes: pictures come in several resolutions (multi-crop): timm's ViTs then resample their position
            embeddings, unless `dynamic_img_size` says otherwise.
        options: further arguments of the library's constructor. `stem` replaces a ResNet's stem by one that
            suits 32-64 px pictures: `conv3` (one 3x3 convolution of stride 1, no pooling: full resolution, slow)
            or `light` (two 3x3 convolutions of stride 2, no pooling: fast). `pool_grid=n` lets a ResNet keep
            n x n average-pooled cells, flattened, so that features still say where things are. `levels=[2,3,4]`
            makes a ResNet's features the pooled maps of these stages, each L2-normalised, side by side.

    Raises:
        ConfigError: unknown library or model, or an option that the model does not take.

    Example:
        >>> encoder = build_backbone("timm/test_resnet")
        >>> encoder(torch.zeros(2, 3, 48, 48)).shape[1] == encoder.dim
        True
    """
    library, model = split_name(name)
    if several_sizes and library == "timm" and "dynamic_img_size" in _timm_arguments(model):
        options.setdefault("dynamic_img_size", True)
    arguments = dict(options)
    stem = arguments.pop("stem", None)
    grid = arguments.pop("pool_grid", None)
    levels = arguments.pop("levels", None)
    try:
        backbone = cast(Backbone, _BUILDERS[library](model, image_size, pretrained, arguments))
    except TypeError as error:
        raise ConfigError(f"backbone {name} does not take these options: {error}") from error
    if stem is not None:
        _replace_stem(backbone, name, str(stem))
    if grid is not None:
        _keep_grid(backbone, name, int(grid))
    if levels is not None:
        _use_levels(backbone, name, levels)
    backbone.name = f"{library}/{model}"
    backbone.options = {**options, **({"image_size": image_size} if image_size is not None else {})}
    backbone.dim = _feature_dim(backbone, image_size)
    return backbone


def split_name(name: str) -> tuple[str, str]:
    """(library, model) of a backbone name; unknown names raise ConfigError with the nearest one."""
    library, _, model = name.partition("/")
    if model:
        if library not in LIBRARIES:
            raise ConfigError(
                f"backbone '{name}': unknown library '{library}'; {did_you_mean(library, LIBRARIES)} "
                "Type backbone.name=timm/..., torchvision/... or open_clip/..."
            )
        known = _model_names(library)
        if model not in known:
            raise ConfigError(f"backbone '{name}': {library} has no '{model}'; {_suggest(model, known)}")
        return library, model
    for candidate in ("timm", "torchvision"):
        if name in _model_names(candidate):
            return candidate, name
    raise ConfigError(
        f"backbone '{name}' is known to neither timm nor torchvision; {_suggest(name, _model_names('timm'))}"
    )


def _suggest(model: str, known: list[str]) -> str:
    text = did_you_mean(model, known)
    return text if text.startswith("did") else f"for example {', '.join(known[:3])}"


def _model_names(library: str) -> list[str]:
    if library == "timm":
        import timm

        return list(timm.list_models())
    if library == "torchvision":
        import torchvision

        return list(torchvision.models.list_models(module=torchvision.models))
    return list(_open_clip().list_models())


def _open_clip() -> Any:
    try:
        import open_clip
    except ImportError as error:
        raise ConfigError("open_clip models need the extra: pip install 'lgrep[clip]'") from error
    return open_clip


def _from_timm(model: str, image_size: int | None, pretrained: bool, options: dict[str, Any]) -> Any:
    import timm

    if image_size is not None and "img_size" in _timm_arguments(model):
        options = {"img_size": image_size, **options}
    return timm.create_model(model, pretrained=pretrained, num_classes=0, **options)


def _timm_arguments(model: str) -> set[str]:
    """Named constructor arguments of the class behind a timm entry point."""
    import timm

    module = inspect.getmodule(timm.model_entrypoint(model))
    for name in ("VisionTransformer", "SwinTransformer"):
        if hasattr(module, name) and ("vit" in model or "deit" in model or "swin" in model):
            return set(inspect.signature(getattr(module, name)).parameters)
    return set()


def _from_torchvision(model: str, image_size: int | None, pretrained: bool, options: dict[str, Any]) -> Any:
    import torchvision

    if image_size is not None and model.startswith("vit"):
        options = {"image_size": image_size, **options}
    network = torchvision.models.get_model(model, weights="DEFAULT" if pretrained else None, **options)
    layers = [(n, m) for n, m in network.named_modules() if n.split(".")[0] in ("fc", "classifier", "heads", "head")]
    last = next((n for n, m in reversed(layers) if isinstance(m, nn.Linear | nn.Conv2d)), None)
    if last is None:
        raise ConfigError(f"torchvision/{model} is not an image classifier, so its features cannot be found")
    parent, _, name = last.rpartition(".")
    setattr(network.get_submodule(parent), name, nn.Identity())
    return network


def _from_open_clip(model: str, image_size: int | None, pretrained: bool, options: dict[str, Any]) -> Any:
    weights = options.pop("weights", "openai" if pretrained else None)
    if image_size is not None:
        options = {"force_image_size": image_size, **options}
    return open_clip_model(model, weights, **options).visual


def open_clip_model(model: str, weights: str | None = None, **options: Any) -> Any:
    """A whole open_clip model, with the activation that its public weights were trained with.

    Args:
        model: name in open_clip.
        weights: tag of public weights, which are downloaded; None: fresh ones.
        options: further arguments of `open_clip.create_model`.
    """
    library = _open_clip()
    # open_clip only warns when the weights of a tag need another activation than the model's name says
    if weights is not None and library.get_pretrained_cfg(model, weights).get("quick_gelu"):
        options = {"force_quick_gelu": True, **options}
    return library.create_model(model, pretrained=weights, **options)


def _replace_stem(backbone: nn.Module, name: str, stem: str) -> None:
    if stem not in STEMS:
        raise ConfigError(f"backbone.options.stem: got '{stem}'; {did_you_mean(stem, STEMS)}")
    norm = getattr(backbone, "bn1", None)
    if not isinstance(norm, nn.BatchNorm2d) or not hasattr(backbone, "conv1") or not hasattr(backbone, "maxpool"):
        raise ConfigError(f"backbone.options.stem={stem} is for ResNets; {name} is none. Leave it out.")
    width = norm.num_features
    if stem == "conv3":
        new: nn.Module = nn.Conv2d(3, width, 3, stride=1, padding=1, bias=False)
    else:
        new = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False),
        )
    for layer in new.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    backbone.conv1, backbone.maxpool = new, nn.Identity()


class GridPool(nn.Module):
    """Feature maps [B, C, H, W] -> averages of n x n cells, flattened to [B, C * n * n].

    Cell i covers the places floor(i H / n) to ceil((i + 1) H / n), as in adaptive pooling, so any H and W do;
    unlike that, the gradient is deterministic on every device.
    """

    def __init__(self, cells: int) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, maps: Tensor) -> Tensor:
        n, (height, width) = self.cells, maps.shape[2:]
        rows = [maps[:, :, i * height // n : -(-(i + 1) * height // n)] for i in range(n)]
        cells = [row[:, :, :, i * width // n : -(-(i + 1) * width // n)] for row in rows for i in range(n)]
        means = [cell.mean(dim=(2, 3)) for cell in cells]
        return torch.stack(means, dim=2).flatten(1)


def _keep_grid(backbone: nn.Module, name: str, cells: int) -> None:
    pools = [
        attribute
        for attribute in ("global_pool", "avgpool")
        if isinstance(getattr(backbone, attribute, None), nn.Module)
    ]
    if not pools or cells < 1 or not isinstance(getattr(backbone, "bn1", None), nn.BatchNorm2d):
        raise ConfigError(
            f"backbone.options.pool_grid={cells} is for ResNets and at least 1 (backbone {name}). Leave it out."
        )
    setattr(backbone, pools[0], GridPool(cells))


def _use_levels(backbone: nn.Module, name: str, levels: Sequence[int]) -> None:
    stages = [int(level) for level in levels]
    if not all(hasattr(backbone, f"layer{level}") for level in (1, 2, 3, 4)):
        raise ConfigError(f"backbone.options.levels is for ResNets; {name} is none. Leave it out.")
    if not stages or not set(stages) <= {1, 2, 3, 4}:
        raise ConfigError(f"backbone.options.levels={list(levels)}: give stages among 1, 2, 3 and 4")
    backbone.levels = tuple(sorted(set(stages)))  # type: ignore[assignment]
    backbone.__class__ = _leveled(type(backbone))  # type: ignore[arg-type]


@cache
def _leveled(network: type[nn.Module]) -> type[nn.Module]:
    """The ResNet class with another `forward`; a class, so that copies of the module keep it."""

    class LeveledResNet(network):  # type: ignore[valid-type, misc]
        def forward(self, pictures: Tensor) -> Tensor:
            activation = self.act1 if hasattr(self, "act1") else self.relu
            pool = self.global_pool if hasattr(self, "global_pool") else self.avgpool
            maps, features = self.maxpool(activation(self.bn1(self.conv1(pictures)))), []
            for level in range(1, max(self.levels) + 1):
                maps = getattr(self, f"layer{level}")(maps)
                if level in self.levels:
                    features.append(functional.normalize(pool(maps).flatten(1), dim=1))
            return torch.cat(features, dim=1)

    return LeveledResNet


def _feature_dim(backbone: nn.Module, image_size: int | None) -> int:
    """D, from one forward pass in evaluation mode (no state changes)."""
    size = image_size or _native_size(backbone)
    training = backbone.training
    with torch.no_grad():
        features = backbone.eval()(torch.zeros(1, 3, size, size))
    backbone.train(training)
    if features.ndim != 2:
        raise ConfigError(f"the backbone gives features of shape {tuple(features.shape)}, expected [B, D]")
    return int(features.shape[1])


def _native_size(backbone: nn.Module) -> int:
    configuration = getattr(backbone, "pretrained_cfg", None) or {}
    size = configuration.get("input_size", (3, 224, 224))[-1]
    declared = getattr(backbone, "image_size", size)
    return int(declared[0] if isinstance(declared, tuple) else declared)


_BUILDERS = {"timm": _from_timm, "torchvision": _from_torchvision, "open_clip": _from_open_clip}
