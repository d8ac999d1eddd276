"""Sources in the configuration: what every `data` node may have besides its source's own settings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from lgrep.config.spec import TARGET, build, validate_spec
from lgrep.errors import ConfigError

SELECTION = ("where", "limit", "limit_seed", "limit_by")
PARTS = "parts"
_FILTERED = "lgrep.data.sources.filtered.FilteredSource"
_FREE = re.compile(rf"data\.({PARTS}\.\w+\.)*({'|'.join(SELECTION)})[.=]")


def open_selection(overrides: Iterable[str]) -> list[str]:
    """Overrides in which `data.where.year=2020` needs no `+`, though no file lists the columns.

    >>> open_selection(["seed=1", "data.where.year=2020", "data.parts.real.limit=10"])
    ['seed=1', '++data.where.year=2020', '++data.parts.real.limit=10']
    """
    return [f"++{override}" if _FREE.match(override) else override for override in overrides]


def source_spec(node: Any, path: str = "data") -> dict[str, Any]:
    """Check the node of a source, those of its parts, and what selects rows of it.

    Returns:
        A node for `build_source`; one with a selection is that of a `FilteredSource` around the source.

    Raises:
        ConfigError: see `validate_spec`.
    """
    if not isinstance(node, Mapping):
        raise ConfigError(f"{path}: got {node!r}, expected a mapping with {TARGET}")
    own = {str(key): value for key, value in node.items() if key not in SELECTION}
    selection = {str(key): value for key, value in node.items() if key in SELECTION}
    if isinstance(own.get(PARTS), Mapping):
        own[PARTS] = {
            str(name): source_spec(part, f"{path}.{PARTS}.{name}") if isinstance(part, Mapping) else part
            for name, part in own[PARTS].items()
        }
    checked = validate_spec(own, path)
    if not selection:
        return checked
    return {**validate_spec({TARGET: _FILTERED, **selection}, path, injected=("source",)), "source": checked}


def build_source(spec: Any) -> Any:
    """The source of a checked node, its parts built first."""
    if isinstance(spec, Mapping) and TARGET in spec:
        return build({key: value if key == TARGET else build_source(value) for key, value in spec.items()})
    if isinstance(spec, dict):
        return {key: build_source(value) for key, value in spec.items()}
    return spec
