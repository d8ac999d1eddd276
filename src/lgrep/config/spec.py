"""Objects in the configuration: a `_target_` and the arguments of its constructor.

The schema of such a node is derived from the constructor's signature, so that a class in a user's own
package is checked like the project's own. Only the configuration that the user composes is ever
instantiated; checkpoints and run folders hold registry names and plain values.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from lgrep.config.messages import explain
from lgrep.errors import ConfigError, did_you_mean

TARGET = "_target_"


def import_target(target: str, path: str) -> Any:
    """The class or function that `target` (a dotted name) points to; `path` names the node in messages."""
    module_name, _, attribute = target.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{path}.{TARGET}={target}: cannot import '{module_name}' ({error})") from error
    if not hasattr(module, attribute):
        names = [name for name in vars(module) if not name.startswith("_")]
        raise ConfigError(
            f"{path}.{TARGET}={target}: {module_name} has no '{attribute}'; {did_you_mean(attribute, names)}"
        )
    return getattr(module, attribute)


@cache
def settings_model(target: Any, injected: frozenset[str]) -> type[BaseModel]:
    """The pydantic model of a constructor's arguments, without those that the program supplies."""
    function = target.__init__ if inspect.isclass(target) else target
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(target).parameters.items():
        if name in injected or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[name] = (hints.get(name, Any), default)
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, validate_default=False)
    return create_model(getattr(target, "__name__", "settings"), __config__=config, **fields)


def validate_spec(node: Any, path: str, injected: Iterable[str] = ()) -> dict[str, Any]:
    """Check a node against its target's signature.

    Args:
        node: mapping with `_target_` and arguments.
        path: dotted place of the node in the configuration, for messages.
        injected: arguments that the program supplies.

    Returns:
        The node with values converted to the annotated types.

    Raises:
        ConfigError: no target, an unknown key (with the nearest right one), or a wrong value.
    """
    if not isinstance(node, Mapping):
        raise ConfigError(f"{path}: got {node!r}, expected a mapping with {TARGET}")
    if not isinstance(node.get(TARGET), str):
        raise ConfigError(
            f"{path}: {TARGET} is missing; choose one of the group's files, e.g. {path.split('.')[0]}=NAME"
        )
    target = import_target(str(node[TARGET]), path)
    model = settings_model(target, frozenset(injected))
    arguments = {str(key): value for key, value in node.items() if key != TARGET}
    try:
        checked = model(**arguments)
    except ValidationError as error:
        raise ConfigError(explain(error, path, model, arguments)) from error
    values = {name: getattr(checked, name) for name in arguments}
    return {TARGET: node[TARGET], **values}


def build(node: Mapping[str, Any], **injected: Any) -> Any:
    """Call the target of a validated node; of `injected` it gets the arguments that it has."""
    target = import_target(str(node[TARGET]), "configuration")
    accepted = inspect.signature(target).parameters
    supplied = {name: value for name, value in injected.items() if name in accepted}
    arguments = {key: value for key, value in node.items() if key != TARGET}
    return target(**arguments, **supplied)
