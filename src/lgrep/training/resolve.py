"""Everything that follows from a configuration before data or weights are loaded."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, cast

from pytorch_lightning.strategies import StrategyRegistry

from lgrep.config.compose import parse
from lgrep.config.schema import TrainConfig
from lgrep.config.sources import build_source, source_spec
from lgrep.config.spec import build, import_target, validate_spec
from lgrep.data.pairings import Pairing
from lgrep.data.sources import Source
from lgrep.data.text import TextViews
from lgrep.data.transforms import Transform
from lgrep.data.transforms.one_of import combinations
from lgrep.data.views import View, describe_views, expand_views
from lgrep.errors import ConfigError, did_you_mean
from lgrep.training.sharded import register

CALLBACK_INJECTED = ("run_dir", "seed")


@dataclass
class Resolved:
    """A checked configuration and the light objects made from it (nothing is read or downloaded yet).

    Attributes:
        config: typed configuration; its `_target_` nodes hold converted values.
        values: the same as plain containers, for the run folder.
        choices: chosen file of each configuration group.
        source, pairing, transforms, views: of the data module.
        texts: text views, or None.
        method: class of the method.
    """

    config: TrainConfig
    values: dict[str, Any]
    choices: dict[str, str]
    source: Source
    pairing: Pairing
    transforms: dict[str, Transform]
    views: list[View]
    texts: TextViews | None
    method: type[Any]

    @property
    def name(self) -> str:
        """Name of the run."""
        if self.config.name:
            return self.config.name
        return "_".join([self.choices.get("method", "method"), self.choices.get("data", "data")])


def resolve(values: dict[str, Any], choices: dict[str, str]) -> Resolved:
    """Check a composed configuration.

    Raises:
        ConfigError: unknown keys, wrong values, or choices that contradict each other.
    """
    config = parse(TrainConfig, values)
    config.data = source_spec(config.data)
    config.pairing = validate_spec(config.pairing, "pairing")
    config.method = validate_spec(config.method, "method", injected=("backbone", "num_classes"))
    if config.language:
        config.language = validate_spec(config.language, "language", injected=("modalities",))
    config.augment.transforms = {
        name: validate_spec(node, f"augment.transforms.{name}") for name, node in config.augment.transforms.items()
    }
    for section, nodes in (("logger", config.logger), ("callbacks", config.callbacks)):
        for name, node in nodes.items():
            if node is not None:
                nodes[name] = validate_spec(node, f"{section}.{name}", CALLBACK_INJECTED)
    pairing = build(config.pairing)
    transforms = {name: build(node) for name, node in config.augment.transforms.items()}
    views = expand_views(config.augment.views, pairing.pictures, transforms)
    transforms |= combinations([view.transform for view in views], transforms)
    method = import_target(config.method["_target_"], "method")
    _check_views(method, _image_views(config, views))
    texts = _text_views(config)
    _check_relations(method, pairing)
    _check_text(method, bool(config.language), texts, pairing.pictures)
    _check_batch(method, config.loader.batch_size)
    _check_library(config.backbone.name)
    _check_strategy(config.trainer.strategy)
    return Resolved(config, values, choices, build_source(config.data), pairing, transforms, views, texts, method)


def _text_views(config: TrainConfig) -> TextViews | None:
    """Text views, their transforms checked and built first; `config.text` becomes the checked node."""
    if not config.text:
        return None
    rest = {key: value for key, value in config.text.items() if key != "transforms"}
    nodes = config.text.get("transforms") or {}
    if not isinstance(nodes, dict):
        raise ConfigError(f"text.transforms: got {nodes!r}, expected a mapping of names to nodes with _target_")
    config.text = validate_spec(rest, "text", injected=("transforms",))
    if not nodes:
        return cast(TextViews, build(config.text))
    checked = {name: validate_spec(node, f"text.transforms.{name}") for name, node in nodes.items()}
    texts = build(config.text, transforms={name: build(node) for name, node in checked.items()})
    config.text = {**config.text, "transforms": checked}
    return cast(TextViews, texts)


def _image_views(config: TrainConfig, views: list[View]) -> list[View]:
    """The views that the method's own objective sees: all, unless the language objective keeps some for itself."""
    asked = {name: config.language.get(name) for name in ("views", "image_views")}
    for name, chosen in asked.items():
        if chosen is not None and (not chosen or max(chosen) >= len(views)):
            raise ConfigError(
                f"language.{name}={list(chosen)}: augment.views gives the views 0 to {len(views) - 1} "
                f"({describe_views(views)}). Choose among them, or another augment=..."
            )
    return views if asked["image_views"] is None else [views[v] for v in asked["image_views"]]


def _check_views(method: type[Any], views: list[View]) -> None:
    listed = describe_views(views)
    exact, fewest = getattr(method, "exact_views", None), getattr(method, "min_views", 1)
    if exact is not None and len(views) != exact:
        raise ConfigError(
            f"{method.__name__} compares exactly {exact} views, but augment.views gives {len(views)} ({listed}). "
            f"Type pairing.pictures={exact}, or another method such as method=stablerep"
        )
    if len(views) < fewest:
        raise ConfigError(
            f"{method.__name__} needs at least {fewest} views, but augment.views gives {len(views)} ({listed}). "
            f"Leave out `count` in augment.views, or ask for {fewest} views there"
        )


def _check_relations(method: type[Any], pairing: Pairing) -> None:
    asked = getattr(pairing, "in_batch", "negative")
    if asked != "negative" and not getattr(method, "uses_relations", False):
        raise ConfigError(
            f"pairing.in_batch={asked}: {method.__name__} takes all other pictures of a batch alike. "
            "Type pairing.in_batch=negative, or method=stablerep, which reads such pairs"
        )


def _check_text(method: type[Any], language: bool, texts: TextViews | None, pictures: int) -> None:
    if getattr(method, "needs_text", False) and not language:
        raise ConfigError(f"{method.__name__} has no objective of its own. Type language=clip")
    if language and texts is None:
        raise ConfigError("language=... needs captions, but text=none gives it none. Type text=clip")
    asked = max(texts.pictures, default=0) if texts is not None else 0
    if asked >= pictures:
        raise ConfigError(
            f"text.views ask for the caption of picture {asked}, but the pairing provides pictures "
            f"{list(range(pictures))} per anchor. Type pairing.pictures={asked + 1}, or change text.views"
        )


def _check_batch(method: type[Any], anchors: int) -> None:
    fewest = getattr(method, "min_anchors", 1)
    if anchors < fewest:
        raise ConfigError(
            f"loader.batch_size={anchors}: {method.__name__} needs at least {fewest} anchors per step, as the others of "
            f"a batch are what one is compared with and normalised by. Type loader.batch_size={fewest} or more"
        )


def _check_library(name: str) -> None:
    from lgrep.backbones.registry import split_name

    library, _ = split_name(name)
    importlib.import_module(library)


def _check_strategy(name: str) -> None:
    register()
    known = ["auto", *StrategyRegistry.available_strategies()]
    if name not in known:
        raise ConfigError(f"trainer.strategy={name}: Lightning has no such strategy; {did_you_mean(name, known)}")
