"""Which parameters are decayed."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from lgrep.errors import ConfigError, did_you_mean

EXCLUDE = ("norm_and_bias", "none")
_NAME = re.compile(r"(^|[._])(bias|ln|bn)\d*([._]|$)")


def parameter_groups(module: nn.Module, weight_decay: float, exclude: str = "norm_and_bias") -> list[dict[str, Any]]:
    """Splits the trainable parameters of `module` for a torch optimiser.

    With `norm_and_bias`, StableRep's rule, no decay is put on parameters of fewer than two dimensions (norms,
    biases, logit scales) and on those with `bias`, `ln` or `bn` as a part of their name. So class token,
    position embedding and projection matrices are decayed. With `none` everything is decayed, as lgssl does.

    Args:
        module: its frozen parameters are left out; a shared parameter counts once.
        weight_decay: for the decayed group; the other has 0.
        exclude: `norm_and_bias` or `none`.

    Returns:
        Groups with `name` (`decay`, `no_decay`), `params` and `weight_decay`, empty ones left out.

    Raises:
        ConfigError: an unknown rule, a negative decay or no trainable parameter.

    >>> groups = parameter_groups(nn.Linear(3, 2), weight_decay=0.1)
    >>> [(group["name"], len(group["params"]), group["weight_decay"]) for group in groups]
    [('decay', 1, 0.1), ('no_decay', 1, 0.0)]
    """
    if exclude not in EXCLUDE:
        raise ConfigError(
            f"Unknown exclusion from weight decay {exclude!r}; {did_you_mean(exclude, EXCLUDE)} "
            "Type e.g. optimizer.exclude=norm_and_bias."
        )
    if weight_decay < 0:
        raise ConfigError(f"weight_decay must be >= 0, got {weight_decay}; type e.g. optimizer.weight_decay=0.1.")
    trainable = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    if not trainable:
        raise ConfigError(f"{type(module).__name__} has no trainable parameter; nothing can be optimised.")
    spared = {name for name, parameter in trainable if exclude != "none" and _is_spared(name, parameter.ndim)}
    groups = [
        {
            "name": "decay",
            "params": [parameter for name, parameter in trainable if name not in spared],
            "weight_decay": weight_decay,
        },
        {
            "name": "no_decay",
            "params": [parameter for name, parameter in trainable if name in spared],
            "weight_decay": 0.0,
        },
    ]
    return [group for group in groups if group["params"]]


def _is_spared(name: str, ndim: int) -> bool:
    return ndim < 2 or _NAME.search(name) is not None
