"""Models under measurement, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from lgrep.checkpoints.encoder import (
    PIXELS_SIZE,
    is_checkpoint,
    load_encoder,
    project_checkpoint,
    random_encoder,
)
from lgrep.checkpoints.heads import split_features
from lgrep.checkpoints.transform import EvaluationTransform
from lgrep.cost import cost_at
from lgrep.evaluation.contract import EvaluationSet, Subject
from lgrep.evaluation.text_models import text_side
from lgrep.records import weights_hash

RANDOM_NAME, RANDOM_SIZE = "timm/test_resnet", 48  # the untrained baseline when no checkpoint sets an example


@dataclass
class Model:
    """A subject, and whether its pictures are normalised by statistics of its own.

    Attributes:
        subject: with the transform that its name brings.
        own_statistics: False: channels are normalised by the data set's training statistics.
    """

    subject: Subject
    own_statistics: bool

    def on(self, dataset: EvaluationSet) -> Subject:
        """The subject with the transform for this data set."""
        transform = self.subject.transform
        if self.own_statistics or not isinstance(transform, EvaluationTransform):
            return self.subject
        return replace(self.subject, transform=replace(transform, mean=dataset.mean, std=dataset.std))


def load_models(
    names: Sequence[str], image_size: int | None = None, seed: int = 0, baselines: bool = True
) -> list[Model]:
    """Models in the order named; the untrained network, then the pixels come last.

    Args:
        names: what `load_encoder` takes; `random` alone is the untrained network of `baselines`.
        image_size: side in px for all but `pixels`; None takes each model's own.
        seed: draws random weights.
        baselines: also `pixels` (24 px) and `random`: the network, options and picture size of the first checkpoint
            among `names`, `timm/test_resnet` at 48 px when there is none.

    Raises:
        ConfigError: an unknown name.
        CheckpointError: a checkpoint that cannot be used.
    """
    wanted = list(dict.fromkeys(names))
    loaded = [_named(name, image_size, seed) for name in wanted if name != "random"]
    if baselines or "random" in wanted:
        loaded.append(_random_beside(wanted, loaded, image_size, seed))
    if baselines and "pixels" not in wanted:
        loaded.append(_named("pixels", None, seed))
    return loaded


def _named(name: str, image_size: int | None, seed: int) -> Model:
    size = PIXELS_SIZE if name == "pixels" else image_size
    encoder, transform = load_encoder(name, size, seed=seed)
    subject = Subject(name, encoder, transform, weights_hash(encoder))
    side = text_side(name, encoder, seed)
    if side is not None:
        subject.text, subject.to_text_space, subject.logit_scale = side
    if is_checkpoint(name):
        subject.budget = _budget(split_features(name)[0])
        return Model(subject, own_statistics=True)
    return Model(subject, own_statistics=name != "pixels" and not name.startswith("random/"))


def _budget(name: str) -> dict[str, Any] | None:
    """What training took; None for what others published or exported."""
    content = project_checkpoint(name)
    if content is None:
        return None
    about, cost = content["lgrep"], cost_at(name)
    budget: dict[str, Any] = about.get("budget") or {"steps": about.get("step")}
    return budget if cost is None else {**budget, "cost": cost}


def _random_beside(names: Sequence[str], loaded: Sequence[Model], image_size: int | None, seed: int) -> Model:
    """The untrained network: like the first checkpoint's, else the small default."""
    example = next((model.subject for model in loaded if is_checkpoint(model.subject.name)), None)
    options: dict[str, Any] = {}
    if example is None:
        name, size = RANDOM_NAME, image_size or RANDOM_SIZE
        encoder: nn.Module = random_encoder(name, size, seed)
    else:
        assert isinstance(example.transform, EvaluationTransform)
        name, size = str(example.encoder.name), example.transform.size
        options = dict(example.encoder.options)  # type: ignore[arg-type]
        built_size = options.pop("image_size", None)
        encoder = random_encoder(name, size if built_size is not None else None, seed, **options)
    encoder.eval()
    return Model(Subject(f"random/{name}", encoder, EvaluationTransform(size), weights_hash(encoder)), False)
