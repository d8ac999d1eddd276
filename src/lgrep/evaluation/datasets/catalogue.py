"""The catalogue of evaluation sets: one YAML file each, by name or by path."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lgrep.config.locate import config_folder
from lgrep.config.spec import TARGET, build, import_target, validate_spec
from lgrep.errors import ConfigError, did_you_mean
from lgrep.evaluation.contract import EvaluationSet

ALL = "all"
_BOTH = ("aircraft", "cars196", "dtd", "flowers", "pets", "sun397", "caltech101", "food101", "voc2007")
_ZERO_SHOT = (
    "imagenet mnist food101 cifar10 cifar100 cub2011 cars196 aircraft dtd pets caltech101 flowers stl10 eurosat resisc45 "
    "gtsrb kitti_distance country211 pcam ucf101_frames clevr_counts hateful_memes rendered_sst2"
)
_LGSSL = (
    "food101 cifar10 cifar100 cub2011 sun397 cars196 aircraft dtd pets caltech101 flowers stl10 eurosat resisc45 pcam"
)
_TREX = "aircraft cars196 dtd eurosat flowers pets food101 sun397 inat2018 inat2019"
SUITES: dict[str, tuple[str, ...]] = {
    "lgssl": tuple(_LGSSL.split()),
    "clip_rocket": tuple(_ZERO_SHOT.split()),
    "slip": (*_ZERO_SHOT.split(), "sun397", "fer2013", "kinetics700_frames"),
    "trex": ("imagenet", *(f"cog_l{level}" for level in range(1, 6)), *_TREX.split()),
    "synclr": (*_BOTH, "eurosat", "gtsrb", "country211", "mnist", "resisc45", "kitti_distance"),
    "stablerep": (*_BOTH, "cifar10", "cifar100"),
    "robustness": ("imagenet_a", "imagenet_r", "imagenet_v2", "imagenet_sketch"),
}
_SUFFIXES = (".yaml", ".yml")


def catalogue(searchpath: Iterable[str] = ()) -> dict[str, Path]:
    """Name -> file of every set, sorted by name.

    Args:
        searchpath: further places as in `hydra.searchpath` (`file://DIR`, `pkg://package.module` or a folder), each
            with a sub-folder `dataset`; names there add to, and never replace, those of the project.
    """
    found: dict[str, Path] = {}
    for folder in (config_folder(), *(place for text in searchpath if (place := _place(text)) is not None)):
        for path in sorted((folder / "dataset").glob("*.yaml")):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def read_spec(name: str, searchpath: Sequence[str] = ()) -> dict[str, Any]:
    """The node in the file of a set, interpolations resolved.

    Args:
        name: in the catalogue, or the path of a YAML file (one that ends in .yaml or .yml).
        searchpath: see `catalogue`.

    Raises:
        ConfigError: an unknown name (the nearest one is named), or a file that cannot be read.
    """
    path = _path_of(name, searchpath)
    try:
        node = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (OSError, ValueError, OmegaConfBaseException) as error:
        raise ConfigError(f"dataset={name}: {path} cannot be read ({str(error).splitlines()[0][:200]})") from error
    except Exception as error:  # PyYAML's errors have no base that is not its own
        raise ConfigError(f"dataset={name}: {path} is no YAML ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(node, dict) or TARGET not in node:
        raise ConfigError(f"dataset={name}: {path} has no {TARGET}; see docs/datasets.md for a file to begin with")
    return {str(key): value for key, value in node.items()}


def build_set(name: str, searchpath: Sequence[str] = (), **options: Any) -> EvaluationSet:
    """Open the set of a catalogue name.

    Args:
        name: see `read_spec`.
        searchpath: see `catalogue`.
        options: settings that replace those of the file, for example `root`.

    Raises:
        ConfigError: an unknown name or setting, or a wrong value.
        MissingDataset: the set is not on this machine; one line says how to get it.
        DataError: it is there and damaged.
    """
    spec = {**read_spec(name, searchpath), **options}
    spec = {key: value for key, value in spec.items() if value != "???"}
    path = f"options.{_stem(name)}"
    kind = import_target(str(spec[TARGET]), path)
    if not (
        inspect.isclass(kind) and callable(getattr(kind, "parts", None))
    ):  # a file from elsewhere may name anything
        raise ConfigError(f"{path}.{TARGET}={spec[TARGET]}: this is no class of evaluation sets; see docs/datasets.md")
    accepted = inspect.signature(kind).parameters
    if "name" in accepted:
        spec.setdefault("name", _stem(name))
    made: EvaluationSet = build(validate_spec(spec, path))
    return made


def expand(names: str | Sequence[str], searchpath: Sequence[str] = ()) -> list[str]:
    """Names as typed -> names of sets, each once, in the order typed.

    `all` stands for the catalogue, `lgssl`, `trex`, ... (`SUITES`) for the sets of a published suite, in its order. Sets that need settings of their own (`folder`, `huggingface`, ...) are not among `all`.

    Raises:
        ConfigError: an unknown name.
    """
    chosen: list[str] = []
    for name in [names] if isinstance(names, str) else names:
        if name in SUITES:
            chosen += SUITES[name]
        elif name == ALL:
            chosen += [other for other in catalogue(searchpath) if _is_complete(other, tuple(searchpath))]
        else:
            _path_of(name, searchpath)
            chosen.append(name)
    return list(dict.fromkeys(chosen))


@cache
def _is_complete(name: str, searchpath: tuple[str, ...]) -> bool:
    """Whether the file of a set gives all it needs."""
    return "???" not in path.read_text(encoding="utf-8") if (path := _path_of(name, searchpath)) else False


def _path_of(name: str, searchpath: Iterable[str]) -> Path:
    if name.endswith(_SUFFIXES):
        path = Path(name).expanduser()
        if not path.is_file():
            raise ConfigError(f"dataset={name}: there is no such file. Type dataset=NAME or dataset=FILE.yaml")
        return path
    names = catalogue(searchpath)
    if name not in names:
        known = did_you_mean(name, [*names, *SUITES, ALL])
        raise ConfigError(f"dataset={name}: no such data set; {known} Type dataset=NAME")
    return names[name]


def _stem(name: str) -> str:
    return Path(name).stem if name.endswith(_SUFFIXES) else name


def _place(text: str) -> Path | None:
    """The folder of an entry of a search path."""
    if text.startswith("pkg://"):
        try:
            found = importlib.util.find_spec(text.removeprefix("pkg://"))
        except (ImportError, ValueError):
            return None
        return Path(str(found.origin)).parent if found is not None and found.origin else None
    return Path(text.removeprefix("file://")).expanduser()
