"""Class names and templates -> one text embedding per class."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lgrep.errors import ConfigError, DataError
from lgrep.evaluation.contract import EvaluationSet, Task
from lgrep.evaluation.datasets.names import GENERIC, imagenet_names, templates_of
from lgrep.evaluation.text_models import TextSide, on_device

Names = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Prompts:
    """Texts of every class.

    Attributes:
        texts: distinct texts.
        members: for each class the places of its texts, one per template and synonym.
        classes: names of every class; several are synonyms.
        templates: with one `{}` each.
        origins: where names and templates are from, for records.
    """

    texts: list[str]
    members: list[list[int]]
    classes: Names
    templates: tuple[str, ...]
    origins: dict[str, str]


def make_prompts(
    dataset: EvaluationSet, classes: str = "dataset", templates: str | Sequence[str] = "dataset"
) -> Prompts:
    """Every template filled with every name of every class.

    Args:
        dataset: whose classes they are.
        classes: `dataset` (its own names), `imagenet` (open_clip's), or a file: JSON list, JSON mapping of data set to
            list, or text with a class per line; entries of JSON lists may be lists of synonyms.
        templates: `dataset` (its own, else generic ones), `imagenet` (CLIP's 80), `imagenet_simple` (7), a list, or
            such a file.

    Raises:
        ConfigError: unknown or unreadable choices, or a template without `{}`.
        DataError: not one entry per class.
    """
    names, named_by = _class_names(dataset, classes)
    chosen, made_by = _templates(dataset, templates)
    if len(names) != dataset.num_classes:
        raise DataError(
            f"{dataset.name} has {dataset.num_classes} classes, but {named_by} gives {len(names)} names. Type "
            "evaluation.zeroshot.classes=FILE with a name per class"
        )
    empty = [number for number, synonyms in enumerate(names) if not any(synonyms)]
    if empty:
        raise DataError(f"{named_by}: class {empty[0]} has no name")
    place: dict[str, int] = {}
    members = [
        [place.setdefault(template.replace("{}", name), len(place)) for template in chosen for name in synonyms]
        for synonyms in names
    ]
    return Prompts(list(place), members, names, chosen, {"class_names": named_by, "templates": made_by})


def class_weights(embeddings: Tensor, members: Sequence[Sequence[int]]) -> Tensor:
    """Unit mean [C, E] of the unit text embeddings [N, E] of every class, as CLIP ensembles prompts."""
    owner = torch.tensor([number for number, own in enumerate(members) for _ in own])
    unit = normalize(embeddings, dim=1)[[place for own in members for place in own]]
    sums = torch.zeros(len(members), embeddings.shape[1]).index_add_(0, owner, unit)
    return normalize(sums, dim=1)  # the mean has the direction of the sum


def embeddings_by_space(task: Task, features: Tensor, texts: list[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """Unit embeddings (pictures [N, E], texts [T, E]) in every joint space of a model.

    Args:
        task: of a model with a text tower.
        features: of pictures, [N, D].
        texts: to embed.
    """
    to_text_space = task.subject.to_text_space
    assert task.subject.text is not None and to_text_space is not None
    text = on_device(task.subject.text, task.device)
    if isinstance(text, TextSide):
        embedded = text.embed(texts)
        return {space: (text.place(features, space), embedded[space]) for space in text.spaces}
    return {"z": (to_text_space(features), text(texts))}


def _class_names(dataset: EvaluationSet, source: str) -> tuple[Names, str]:
    if source == "dataset":
        if not dataset.class_names:
            raise ConfigError(f"{dataset.name} has no class names. Type evaluation.zeroshot.classes=FILE")
        return tuple((name,) for name in dataset.class_names), "the data set"
    if source == "imagenet":
        names, origin = imagenet_names()
        return tuple((name,) for name in names), origin
    entries = _from_file(source, dataset.name, "classes")
    return tuple(tuple(map(str, entry)) if isinstance(entry, list) else (str(entry),) for entry in entries), source


def _templates(dataset: EvaluationSet, source: str | Sequence[str]) -> tuple[tuple[str, ...], str]:
    if source == "dataset":
        return (dataset.templates, "the data set") if dataset.templates else (GENERIC, "generic, the data set has none")
    if isinstance(source, str) and source in ("imagenet", "imagenet_simple"):
        return templates_of(source)
    if isinstance(source, str):
        chosen, origin = tuple(str(entry) for entry in _from_file(source, dataset.name, "templates")), source
    else:
        chosen, origin = tuple(source), "the configuration"
    wrong = [template for template in chosen if template.count("{}") != 1]
    if wrong or not chosen:
        raise ConfigError(
            f"evaluation.zeroshot.templates: {f'{wrong[0]!r} must have one {{}} for the class name' if wrong else 'none given'}"
        )
    return chosen, origin


def _from_file(source: str, dataset: str, argument: str) -> list[Any]:
    """Entries of a JSON list, of a data set's list in a JSON mapping, or lines of a text."""
    place = f"evaluation.zeroshot.{argument}={source}"
    path = Path(source).expanduser()
    if not path.is_file():
        known = "dataset, imagenet" + (", imagenet_simple, a list" if argument == "templates" else "")
        raise ConfigError(f"{place}: there is no such file; allowed are {known} or a file")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix != ".json":
            return [line.strip() for line in text.splitlines() if line.strip()]
        content = json.loads(text)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{place} cannot be read: {error}") from error
    if isinstance(content, dict):
        if dataset not in content:
            raise ConfigError(f"{place} has no '{dataset}', but {', '.join(list(content)[:8])}")
        content = content[dataset]
    if not isinstance(content, list):
        raise ConfigError(f"{place} must hold a list, or a mapping of data sets to lists")
    return content
