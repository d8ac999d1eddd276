"""Validation errors in the user's words: what was got, what is allowed, what to type."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from lgrep.errors import did_you_mean, nearest


def explain(error: ValidationError, path: str, model: type[BaseModel], got: Mapping[str, Any]) -> str:
    """All problems of one node, one line each."""
    lines: dict[str, str] = {}
    for problem in error.errors():
        line = _line(problem, path, model, got)
        lines.setdefault(line.split(":")[0], line)  # unions report one place several times
    return "\n".join(lines.values())


def _line(problem: Any, path: str, model: type[BaseModel], got: Mapping[str, Any]) -> str:
    place = [str(part) for part in problem["loc"] if not _is_union_branch(str(part))]
    key = ".".join([path, *place] if path else place)
    if problem["type"] == "extra_forbidden":
        parent, allowed = _allowed(model, place)
        name = place[-1]
        best = nearest(name, allowed)
        prefix = key[: -len(name)]
        hint = f" Type {prefix}{best}={override_text(problem['input'])}" if best else ""
        return f"{key}: {parent} has no setting '{name}'; {did_you_mean(name, allowed)}{hint}"
    if problem["type"] == "missing":
        return f"{key}: a value is needed. Type {key}=..."
    if not place:  # of the whole, not of one setting
        return f"{path + ': ' if path else ''}{_sentence(problem['msg'])}"
    default = _default(model, place)
    hint = f". The default is {key}={override_text(default)}" if default is not None else ""
    return f"{key}: got {problem['input']!r}; {_sentence(problem['msg'])}{hint}"


def _is_union_branch(part: str) -> bool:
    """Pydantic puts the branch of a union (`literal['auto']`, `constrained-int`) into the location."""
    return (
        any(mark in part for mark in "[(") or part.startswith("constrained") or part in {"int", "float", "str", "bool"}
    )


def _sentence(message: str) -> str:
    return message.replace("Input should", "it should").replace("Value error, ", "")


def _allowed(model: type[BaseModel], place: list[str]) -> tuple[str, list[str]]:
    """Name and settings of the model that holds the last element of `place`."""
    current: Any = model
    for part in place[:-1]:
        entry = current.model_fields.get(part) if _is_model(current) else None
        if entry is not None and _is_model(entry.annotation):
            current = entry.annotation
    return current.__name__, list(current.model_fields)


def _default(model: type[BaseModel], place: list[str]) -> Any:
    current: Any = model
    for part in place[:-1]:
        entry = current.model_fields.get(part)
        if entry is None or not _is_model(entry.annotation):
            return None
        current = entry.annotation
    entry = current.model_fields.get(place[-1])
    return None if entry is None or entry.is_required() else entry.get_default(call_default_factory=True)


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def override_text(value: Any) -> str:
    """A value as one types it on the command line."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(override_text(item) for item in value) + "]"
    if isinstance(value, BaseModel):
        return json.dumps(value.model_dump(mode="json"))
    return str(value)
