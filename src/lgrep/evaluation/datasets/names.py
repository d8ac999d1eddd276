"""Class names and prompt templates: from installed packages, from files of a set, or as given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from lgrep.errors import ConfigError
from lgrep.evaluation.datasets.listed import read_lines, readable
from lgrep.evaluation.datasets.published_readers import mat_array

GENERIC = ("a photo of a {}.", "a picture of the {}.")
Names = list[str] | dict[str, str] | str | None


@cache
def imagenet_synsets() -> tuple[str, ...]:
    """The 1000 synsets of ImageNet-1K in the order of its classes."""
    from timm.data import ImageNetInfo

    return tuple(ImageNetInfo().label_names())


@cache
def imagenet_names() -> tuple[tuple[str, ...], str]:
    """Names of the 1000 classes, and a footnote that says whose they are."""
    try:
        from open_clip import IMAGENET_CLASSNAMES

        return tuple(IMAGENET_CLASSNAMES), "class names of open_clip"
    except ImportError:
        from timm.data import ImageNetInfo

        lemmas = [text.split(",")[0] for text in ImageNetInfo().label_descriptions()]
        return tuple(lemmas), "class names are WordNet's (timm); open_clip is not installed"


@cache
def wordnet_names() -> dict[str, str]:
    """Synset of ImageNet-22K -> its first lemma."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-22k")
    return {name: info.label_name_to_description(name).split(",")[0] for name in info.label_names()}


def templates_of(given: Sequence[str] | str) -> tuple[tuple[str, ...], str]:
    """Prompts, and a footnote that says whose they are.

    Args:
        given: prompts with one `{}` each; `generic`; `imagenet` (the 80 of CLIP) or `imagenet_simple` (the 7 of SLIP) as open_clip
            has them.

    Raises:
        ConfigError: another word, or a prompt without `{}`.
    """
    if given == "generic":
        return GENERIC, "prompts are generic ones of this project"
    if not isinstance(given, str):
        wrong = [text for text in given if text.count("{}") != 1]
        if wrong:
            raise ConfigError(f"templates: '{wrong[0]}' must have one {{}} for the class name")
        return tuple(given), "prompts are this project's own, not CLIP's for this set"
    if given not in ("imagenet", "imagenet_simple"):
        raise ConfigError(
            f"templates={given}: allowed are generic, imagenet, imagenet_simple or a list of prompts with {{}}"
        )
    try:
        from open_clip import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES
    except ImportError:
        return GENERIC, "generic prompts: open_clip, which has the published ones, is not installed"
    chosen = OPENAI_IMAGENET_TEMPLATES if given == "imagenet" else SIMPLE_IMAGENET_TEMPLATES
    return tuple(template("{}") for template in chosen), f"the {len(chosen)} ImageNet prompts of open_clip"


def class_names_of(given: Names, keys: Sequence[str], known: Mapping[str, str], base: Path) -> list[str]:
    """A name per class.

    Args:
        given: names in the order of the classes; class -> name; `imagenet` (by synset or number); `wordnet` (by synset);
            `torchvision:CLASS` (its attribute `classes`); a text file of the set, one name per line;
            `FILE.mat#ARRAY`; None: from the keys.
        keys: the classes as the files of the set write them.
        known: class -> name, as the files of the set say.
        base: folder of the set.
    """
    names: Sequence[str] | Mapping[str, str]
    if given == "imagenet":
        numbers = imagenet_indices(keys)
        return [imagenet_names()[0][number] for number in numbers]
    if given == "wordnet":
        names = wordnet_names()
    elif isinstance(given, str):
        names = _listed(given, base)
    else:
        names = known if given is None else given
    if isinstance(names, Mapping):
        return [readable(names.get(key, key)) for key in keys]
    return list(names)


def imagenet_indices(keys: Sequence[str]) -> list[int]:
    """Number of every class (a synset, or the number itself) among ImageNet's 1000.

    Raises:
        ConfigError: none of them.
    """
    numbers = {synset: number for number, synset in enumerate(imagenet_synsets())}
    numbers |= {str(number): number for number in range(len(numbers))}
    odd = [key for key in keys if key not in numbers]
    if odd:
        raise ConfigError(f"names=imagenet: '{odd[0]}' is no class of ImageNet-1K")
    return [numbers[key] for key in keys]


def _listed(given: str, base: Path) -> list[str]:
    if given.startswith("torchvision:"):
        import torchvision

        return [str(name) for name in getattr(torchvision.datasets, given.partition(":")[2]).classes]
    file, _, array = given.partition("#")
    if array:
        return [str(name) for name in mat_array(base / file, array).tolist()]
    return [readable(row[0]) for row in read_lines(base / file, 1)]
