"""Taking a training step back where a flag on the device says so, without the host reading it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

_SMALL = 2**16  # elements; larger buffers are copied when torch has counted a change of them


@dataclass
class _Kept:
    live: Tensor
    version: int
    copy: Tensor

    def differs(self, live: Tensor) -> bool:
        # batch norm's kernels change running statistics without counting it
        return live is not self.live or live._version != self.version or live.numel() < _SMALL


class Snapshot:
    """Buffers of a module as they were, with which they can be overwritten again; large constant ones are copied once."""

    def __init__(self) -> None:
        self._module: nn.Module | None = None
        self._places: list[tuple[dict[str, Tensor | None], str]] = []
        self._kept: list[_Kept | None] = []

    @torch.no_grad()
    def take(self, module: nn.Module) -> None:
        """Remember the saved buffers (those of the state dict)."""
        if module is not self._module:
            self._module = module
            self._places = [
                (part._buffers, name)
                for part in module.modules()
                for name in part._buffers
                if name not in part._non_persistent_buffers_set
            ]
            self._kept = [None] * len(self._places)
        changed = []
        for number, (owner, name) in enumerate(self._places):
            live, kept = owner[name], self._kept[number]
            if live is None:
                self._kept[number] = None
            elif kept is None or kept.live is not live:
                self._kept[number] = _Kept(live, live._version, live.detach().clone())
            elif kept.differs(live):
                kept.version = live._version
                changed.append(kept)
        _copy([kept.copy for kept in changed], [kept.live for kept in changed])

    @torch.no_grad()
    def restore(self, flag: Tensor) -> None:
        """Overwrite what has changed since `take` where `flag` (bool scalar) is true."""
        changed: list[tuple[Tensor, Tensor]] = []
        for (owner, name), kept in zip(self._places, self._kept, strict=True):
            live = owner[name]
            if live is not None and kept is not None and kept.differs(live):
                changed.append((live, kept.copy))
        if flag.device.type == "cpu":  # nothing to wait for
            if bool(flag):
                _copy([live for live, _ in changed], [copy for _, copy in changed])
            return
        for dtype in {live.dtype for live, _ in changed}:
            of_type = [(live, copy) for live, copy in changed if live.dtype == dtype]
            now, before = (torch.cat([pair[side].flatten() for pair in of_type]) for side in (0, 1))
            parts = torch.split(torch.where(flag, before, now), [live.numel() for live, _ in of_type])
            _copy(
                [live for live, _ in of_type],
                [part.view(live.shape) for part, (live, _) in zip(parts, of_type, strict=True)],
            )


def leave_out_step(optimizer: Optimizer, flag: Tensor) -> None:
    """The optimiser's next step changes neither parameters nor its state where `flag` (bool scalar) is true.

    torch's fused optimisers take the flag as a tensor. For others, and for sharded parameters, the host reads it.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    on_device = getattr(optimizer, "_step_supports_amp_scaling", False)
    on_device = on_device and not optimizer.defaults.get("dampening", 0.0)
    if on_device and not any(isinstance(p, DTensor) for p in parameters):
        if optimizer.defaults.get("momentum", 0.0):
            # the fused kernel would leave the first step's buffer as the memory happens to be
            for p in parameters:
                optimizer.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
        optimizer.found_inf = flag.float()  # type: ignore[attr-defined]
    elif bool(flag):
        for p in parameters:
            p.grad = None


def _copy(targets: list[Tensor], sources: list[Tensor]) -> None:
    if targets:
        torch._foreach_copy_(targets, sources)
