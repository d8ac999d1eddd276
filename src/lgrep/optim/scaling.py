"""Learning rate from a base rate and the size of the global batch."""

from __future__ import annotations

from lgrep.errors import ConfigError


def scaled_lr(base_lr: float, pictures_per_step: int, reference: int = 512) -> float:
    """The linear rule: base_lr * pictures_per_step / reference.

    StableRep: base 2e-4 and all views of the global batch, K = 43 captions x 32 processes x 6 pictures, give
    3.225e-3. lgssl: base 1e-3 and the global batch of pairs (512 of them gives 1e-3 itself).

    Args:
        base_lr: rate at `reference` pictures per step.
        pictures_per_step: pictures that one optimiser step sees, over processes and accumulated batches.
        reference: batch for which `base_lr` is meant.

    Returns:
        Peak learning rate.

    Raises:
        ConfigError: a value that is not positive.

    Paper:
        Goyal et al., 2017, https://arxiv.org/abs/1706.02677.

    >>> round(scaled_lr(2e-4, 43 * 32 * 6), 9)
    0.003225
    """
    if base_lr <= 0 or pictures_per_step < 1 or reference < 1:
        raise ConfigError(
            f"The learning-rate rule needs positive values, got base_lr={base_lr}, "
            f"pictures_per_step={pictures_per_step}, reference={reference}; type e.g. optimizer.base_lr=1e-3."
        )
    return base_lr * pictures_per_step / reference
