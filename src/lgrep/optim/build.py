"""Optimisers by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch.optim import SGD, AdamW, Optimizer

from lgrep.errors import ConfigError, did_you_mean


def _lars(groups: list[dict[str, Any]], **options: Any) -> Optimizer:
    from timm.optim import Lars  # timm imports much, a tracker among it

    made: Optimizer = Lars(groups, **options)
    return made


_OPTIMIZERS: dict[str, tuple[Callable[..., Optimizer], frozenset[str]]] = {
    "adamw": (AdamW, frozenset({"betas", "eps", "fused"})),
    "sgd": (SGD, frozenset({"momentum", "nesterov", "dampening", "fused"})),
    "lars": (_lars, frozenset({"momentum", "nesterov", "dampening", "trust_coeff"})),
}


def build_optimizer(name: str, groups: Iterable[dict[str, Any]], lr: float, **options: Any) -> Optimizer:
    """Makes an optimiser.

    Args:
        name: `adamw` (options `betas`, `eps`, `fused`), `sgd` (`momentum`, `nesterov`, `dampening`, `fused`) or `lars`
            (`momentum`, `nesterov`, `dampening`, `trust_coeff`), timm's, which adapts the rates of decayed groups only.
        groups: from `parameter_groups`; each has its own `weight_decay`.
        lr: learning rate of every group that names none.
        options: torch's defaults hold for what is left out. StableRep: AdamW with betas (0.9, 0.98).

    Raises:
        ConfigError: an unknown optimiser, an option that it does not have, or a value that it refuses.

    >>> from torch import nn
    >>> from lgrep.optim.groups import parameter_groups
    >>> groups = parameter_groups(nn.Linear(3, 2), weight_decay=0.1)
    >>> build_optimizer("adamw", groups, lr=1e-3, betas=(0.9, 0.98)).param_groups[1]["weight_decay"]
    0.0
    """
    if name not in _OPTIMIZERS:
        raise ConfigError(f"Unknown optimiser {name!r}; {did_you_mean(name, _OPTIMIZERS)} Type e.g. optimizer=adamw.")
    make, allowed = _OPTIMIZERS[name]
    for option in options.keys() - allowed:
        raise ConfigError(f"The optimiser {name} has no option {option!r}; {did_you_mean(option, allowed)}")
    if "betas" in options:
        options["betas"] = tuple(options["betas"])
    try:
        return make(list(groups), lr=lr, **options)
    except ValueError as error:
        raise ConfigError(f"The optimiser {name} refuses its settings: {error}.") from error
