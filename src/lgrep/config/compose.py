"""Composition: command line -> Hydra -> typed configuration, with errors a person can act on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from lgrep.config.evaluate import spelled_out
from lgrep.config.locate import config_folder
from lgrep.config.messages import explain
from lgrep.config.sources import open_selection
from lgrep.errors import ConfigError, did_you_mean, nearest

Model = TypeVar("Model", bound=BaseModel)


def compose_config(name: str, overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Compose `configs/<name>.yaml` with overrides.

    Returns:
        The resolved configuration as plain containers, and the chosen file of each group.

    Raises:
        ConfigError: an override that Hydra does not accept, in our words.
    """
    if name == "evaluate":
        overrides = spelled_out(overrides)
    try:
        composed = _composed(name, overrides)
        choices = {str(k): str(v) for k, v in composed.hydra.runtime.choices.items() if not str(k).startswith("hydra")}
        return plain(composed), choices
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key}: a value is needed. Type {error.full_key}=...") from error
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(_translate(str(error), overrides, name)) from error


def sweep_settings(name: str, overrides: Sequence[str]) -> dict[str, str]:
    """What a composed configuration itself asks to sweep over (`hydra.sweeper.params`): key -> values."""
    try:
        composed = _composed(name, overrides)
    except (HydraException, OmegaConfBaseException, ValueError):
        return {}  # the job's own check words the error
    return {str(key): str(values) for key, values in (composed.hydra.sweeper.get("params") or {}).items()}


def _composed(name: str, overrides: Sequence[str]) -> DictConfig:
    """Hydra's composition, its own part included."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(config_folder()), version_base="1.3"):
        composed: DictConfig = compose(config_name=name, overrides=open_selection(overrides), return_hydra_config=True)
    return composed


def plain(composed: DictConfig) -> dict[str, Any]:
    """A composed configuration as plain containers, interpolations resolved, without Hydra's own part."""
    copy = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    container = OmegaConf.to_container(copy, resolve=True, throw_on_missing=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def parse(model: type[Model], values: dict[str, Any]) -> Model:
    """Check plain values against a schema.

    Raises:
        ConfigError: names every unknown key and wrong value.
    """
    try:
        return model(**values)
    except ValidationError as error:
        raise ConfigError(explain(error, "", model, values)) from error


def group_choices(group: str) -> list[str]:
    """Names of the files of a configuration group."""
    return sorted(path.stem for path in (config_folder() / group).glob("*.yaml"))


def experiments() -> dict[str, str]:
    """Experiment name -> its one-line description (the first comment line of its file)."""
    found = {}
    for name in group_choices("experiment"):
        text = (config_folder() / "experiment" / f"{name}.yaml").read_text(encoding="utf-8")
        comment = next((line[1:].strip() for line in text.splitlines() if line.startswith("#") and "@" not in line), "")
        found[name] = comment
    return found


def _translate(message: str, overrides: Sequence[str], config_name: str) -> str:
    first = message.strip().splitlines()[0]
    group = re.search(r"Could not (?:find|load) '([\w-]+)/([^']+)'", message)
    if group:
        folder, choice = group.groups()
        return f"{folder}={choice}: no such choice; {did_you_mean(choice, group_choices(folder))} Type {folder}=NAME"
    key = re.search(
        r"Could not override '([^']+)'|Key '([^']+)' is not in struct|In '[^']+': Could not override '([^']+)'", message
    )
    if key:
        name = next(part for part in key.groups() if part)
        return unknown_key(_full_key(name, overrides), config_name, overrides)
    if message.startswith("Ambiguous value"):
        return f"{first}: write [a,b] for a list, or add -m to run each value"
    if "parsing override" in message or "no viable alternative" in message or "override must be" in message:
        odd = next((text for text in overrides if not re.fullmatch(r"[~+]*[\w.@/-]+(=.*)?", text)), None)
        what = f"the argument '{odd}'" if odd else "an argument"
        return f"cannot read {what} ({first}): write key=value, e.g. seed=1 or optimizer.base_lr=1e-3"
    return first


def _full_key(name: str, overrides: Sequence[str]) -> str:
    keys = [override.split("=")[0].lstrip("+~") for override in overrides]
    return next((key for key in keys if key == name or key.endswith("." + name)), name)


def unknown_key(key: str, config_name: str, overrides: Sequence[str] = ()) -> str:
    """The message for a key that the configuration does not have, with the nearest one among the chosen groups."""
    chosen = [override for override in overrides if group_choices(re.split("[@=]", override.lstrip("+"))[0])]
    with initialize_config_dir(config_dir=str(config_folder()), version_base="1.3"):
        default = compose(config_name=config_name, overrides=chosen)
    allowed = _dotted(OmegaConf.to_container(default, resolve=False))
    if key in allowed:
        return f"{key}: new entries are added one by one. Type +{key}.NAME=..."
    listed = next((name for name in allowed if key.startswith(name + ".") and name in _lists(default)), None)
    if listed is not None:
        return f"{key}: elements of a list cannot be set alone. Type the whole list, '{listed}=[...]'"
    parent, _, last = key.rpartition(".")
    siblings = [name for name in allowed if name.rpartition(".")[0] == parent]
    if siblings:
        return f"{key}: unknown setting; {did_you_mean(last, [name.rpartition('.')[2] for name in siblings])}"
    group, _, rest = key.partition(".")
    choice = rest.partition(".")[0]
    if choice in group_choices(group):
        return f"{key} belongs to {group}={choice}, which is not chosen. Type {group}={choice} {key}=..."
    best = nearest(key, allowed)
    known = f"did you mean '{best}'?" if best else f"allowed: {', '.join(n for n in allowed if '.' not in n)}"
    return f"{key}: unknown setting; {known}"


def _lists(composed: DictConfig) -> list[str]:
    names = _dotted(OmegaConf.to_container(composed, resolve=False))
    return [
        name for name in names if OmegaConf.is_list(OmegaConf.select(composed, name, throw_on_resolution_failure=False))
    ]


def _dotted(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return []
    names = []
    for key, value in node.items():
        names.append(f"{prefix}{key}")
        names += _dotted(value, f"{prefix}{key}.")
    return names


def to_yaml(values: Any) -> str:
    """Plain containers as YAML, keys in order."""
    return OmegaConf.to_yaml(OmegaConf.create(values))


def write_yaml(values: Any, path: Path) -> None:
    """Write plain containers as YAML."""
    path.write_text(to_yaml(values), encoding="utf-8")
