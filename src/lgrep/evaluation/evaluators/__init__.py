"""Evaluators: one module each, a class that `configs/evaluation/NAME.yaml` names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from omegaconf import OmegaConf

from lgrep.config.locate import config_folder
from lgrep.config.spec import TARGET, build, validate_spec
from lgrep.errors import ConfigError, did_you_mean
from lgrep.evaluation.contract import Evaluator

Node = Mapping[str, Any]


def evaluator_names() -> list[str]:
    """Names of the files in `configs/evaluation`."""
    return sorted(path.stem for path in (config_folder() / "evaluation").glob("*.yaml"))


def evaluator_nodes(
    chosen: str | Sequence[str] | Mapping[str, Node | None], settings: Mapping[str, Node] | None = None
) -> dict[str, dict[str, Any]]:
    """Checked nodes of evaluators by name.

    Args:
        chosen: names of files in `configs/evaluation`, or name -> node with `_target_`; nodes that are None are left out.
        settings: name -> arguments that replace those of its file, or a whole node with `_target_`.

    Raises:
        ConfigError: an unknown name or setting (with the nearest one), or a wrong value.
    """
    given = {name: dict(node) for name, node in (settings or {}).items()}
    nodes: dict[str, dict[str, Any]] = {}
    if isinstance(chosen, Mapping):
        nodes = {name: dict(node) for name, node in chosen.items() if node is not None}
    else:
        for name in [chosen] if isinstance(chosen, str) else chosen:
            nodes |= {name: {}} if TARGET in given.get(name, {}) else _file(name)
    for name, arguments in given.items():
        if name not in nodes:
            raise ConfigError(f"settings.{name}: this evaluator is not chosen; {did_you_mean(name, nodes)}")
        nodes[name] |= arguments
    return {name: validate_spec(node, f"evaluation.{name}") for name, node in nodes.items()}


def build_evaluators(
    chosen: str | Sequence[str] | Mapping[str, Node | None], settings: Mapping[str, Node] | None = None
) -> dict[str, Evaluator]:
    """Evaluators by name; see `evaluator_nodes`."""
    return {name: cast(Evaluator, build(node)) for name, node in evaluator_nodes(chosen, settings).items()}


def _file(name: str) -> dict[str, dict[str, Any]]:
    known = evaluator_names()
    if name not in known:
        raise ConfigError(
            f"evaluation={name}: no such evaluator; {did_you_mean(name, known)} Type evaluation=[NAME,...]"
        )
    content = OmegaConf.to_container(OmegaConf.load(config_folder() / "evaluation" / f"{name}.yaml"), resolve=True)
    assert isinstance(content, dict)
    nodes: dict[str, dict[str, Any]] = {}
    for other in content.pop("defaults", []):
        nodes |= {} if other == "_self_" else _file(str(other))
    return nodes | {str(key): dict(node) for key, node in content.items()}
