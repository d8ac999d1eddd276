"""The typed configuration of data preparation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from lgrep.config.schema import Section
from lgrep.errors import ConfigError


class PrepareConfig(Section):
    """Everything that `scripts/prepare_data.py` reads."""

    data: dict[str, Any] | None = None
    make: dict[str, Any] | None = None
    out: Annotated[str, Field(min_length=1)]
    name: str | None = None
    size: PositiveInt | None = None
    format: Literal["keep", "jpeg", "png"] = "keep"
    quality: Annotated[int, Field(ge=1, le=100)] = 95
    check: Literal["decode", "read"] = "decode"
    shard_rows: PositiveInt = 10_000
    workers: NonNegativeInt | None = None
    max_skip_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    debug: bool = False


def spelled_out(arguments: Sequence[str]) -> list[str]:
    """Arguments with `source=NAME` and `root=DIR` as the settings that they stand for.

    >>> spelled_out(["source=folder", "root=PICTURES", "out=SET"])
    ['data=folder', 'data.root=PICTURES', 'out=SET']
    """
    short = {"source": "data", "root": "data.root"}
    split = [argument.partition("=") for argument in arguments]
    return [f"{short.get(key, key)}{sign}{value}" for key, sign, value in split]


def check_task(config: PrepareConfig) -> None:
    """Refuse a configuration without one task.

    Raises:
        ConfigError: neither or both of `data` and `make`.
    """
    if (config.data is None) == (config.make is None):
        what = "both data and make are" if config.data is not None else "nothing is"
        raise ConfigError(
            f"{what} chosen: type data=NAME data.root=DIR out=SET to convert a set, or make=NAME out=FILE to write the "
            "files of a published one. --help lists the names"
        )
