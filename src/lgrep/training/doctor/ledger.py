"""Who spends the time: every moment of a step belongs to exactly one part."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from pytorch_lightning.profilers import Profiler
from torch import nn

from lgrep.callbacks.periodic import PeriodicCallback

OTHER = "other"
PERIODIC = "periodic callbacks"
_MOVES = (".batch_to_device", ".transfer_batch_to_device")


class Ledger:
    """Seconds per part. Parts nest; a moment counts for the innermost part only, so the parts sum to the whole.

    Args:
        now: seconds, monotonic.

    Attributes:
        seconds: of each part since `reset`.
        synchronise: called before the clock is read; waits for the device.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.synchronise: Callable[[], None] = _nothing
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._now = now
        self._open = [OTHER]
        self._since = now()

    def reset(self) -> None:
        """Forget what was counted; what is open stays open."""
        self.settle()
        self.seconds.clear()

    def settle(self) -> None:
        """Count the time until now for the part that is open."""
        self.synchronise()
        moment = self._now()
        self.seconds[self._open[-1]] += moment - self._since
        self._since = moment

    def enter(self, part: str | None) -> None:
        """A part begins; None: more of the one that is open."""
        self.settle()
        self._open.append(self._open[-1] if part is None else part)

    def leave(self) -> None:
        """The part that began last ends."""
        self.settle()
        if len(self._open) > 1:
            self._open.pop()

    def within(self, part: str) -> bool:
        """Whether this part is open, at any depth."""
        return part in self._open

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count a block of code for a part."""
        self.enter(name)
        try:
            yield
        finally:
            self.leave()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose time counts for a part."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return counted


class LedgerProfiler(Profiler):
    """Tells a ledger what Lightning announces to its profiler.

    Args:
        ledger: gets the parts.
        fetch: name of the part that waits for a batch.
        began: called when the loop asks for a batch, before anything is counted for it.
    """

    def __init__(self, ledger: Ledger, fetch: str, began: Callable[[], None]) -> None:
        super().__init__()
        self.ledger = ledger
        self.fetch = fetch
        self.began = began

    def start(self, action_name: str) -> None:
        if action_name.endswith("train_dataloader_next"):
            self.began()
        self.ledger.enter(self._part(action_name))

    def stop(self, action_name: str) -> None:
        self.ledger.leave()

    def _part(self, action: str) -> str | None:
        if action.endswith("train_dataloader_next"):
            return self.fetch
        if action.endswith(_MOVES):
            return "copy"
        if action.endswith(".on_after_batch_transfer"):
            return "device augmentation"
        if action.startswith("[Callback]"):
            return None if self.ledger.within(PERIODIC) else "callbacks"
        if action.endswith(".training_step"):
            return "loss"  # what is not a module's own: the objective and the views' way to the backbone
        if action.endswith(".backward"):
            return "backward"
        return "optimiser" if action.endswith((".optimizer_step", ".optimizer_zero_grad")) else None


@contextmanager
def watched(method: nn.Module, data: Any, ledger: Ledger) -> Iterator[None]:
    """Count the backbone (its teacher's too), the heads, `after_step` and augmentation in pieces for parts of their own."""
    handles: list[Any] = []
    for module, part in [*_backbones(method), *_heads(method)]:
        begin = partial(_begin, ledger, part)
        handles.append(module.register_forward_pre_hook(begin))
        handles.append(module.register_forward_hook(partial(_end, ledger), always_call=True))
    replaced = [(method, "after_step", "after_step"), (data, "_render", "device augmentation")]
    for owner, name, part in replaced:
        if hasattr(owner, name):
            setattr(owner, name, ledger.timed(part, getattr(owner, name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for owner, name, _ in replaced:
            owner.__dict__.pop(name, None)


@contextmanager
def watched_acts(callbacks: list[Any], ledger: Ledger) -> Iterator[dict[str, list[float]]]:
    """Seconds of every periodic act, by class name of its callback; they count for a part of their own."""
    spent: dict[str, list[float]] = {}

    def act(callback: PeriodicCallback, whole: Callable[..., None], *args: Any) -> None:
        ledger.synchronise()
        began = time.perf_counter()
        with ledger.part(PERIODIC):
            whole(*args)
        spent.setdefault(type(callback).__name__, []).append(time.perf_counter() - began)

    periodic = [callback for callback in callbacks if isinstance(callback, PeriodicCallback)]
    for callback in periodic:
        callback.act = partial(act, callback, callback.act)  # type: ignore[method-assign]
    try:
        yield spent
    finally:
        for callback in periodic:
            callback.__dict__.pop("act", None)


def synchroniser(device: torch.device) -> Callable[[], None]:
    """Waits until the device has done what it was given."""
    if device.type == "cuda":
        return partial(torch.cuda.synchronize, device)
    return torch.mps.synchronize if device.type == "mps" else _nothing


def _backbones(method: nn.Module) -> list[tuple[nn.Module, str]]:
    """The backbone and copies of it: library modules that `build_backbone` gave its attributes."""
    return [(m, "backbone") for m in method.modules() if all(hasattr(m, name) for name in ("dim", "name", "options"))]


def _heads(method: nn.Module) -> list[tuple[nn.Module, str]]:
    taken = {id(module) for module, _ in _backbones(method)}
    free = [module for module in method.children() if not taken & {id(inner) for inner in module.modules()}]
    return [(module, "head") for module in free]


def _begin(ledger: Ledger, part: str, *_: Any) -> None:
    ledger.enter("recompute" if ledger.within("backward") else part)


def _end(ledger: Ledger, *_: Any) -> None:
    ledger.leave()


def _nothing() -> None:
    pass
