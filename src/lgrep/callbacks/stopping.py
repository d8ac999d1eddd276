"""Stopping a run on request: Ctrl-C, SIGTERM, SIGUSR1, and agreement between processes."""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from torch import distributed

from lgrep.errors import CheckpointError
from lgrep.losses.gather import world
from lgrep.signals import CaughtSignals


class StopRequest(CaughtSignals):
    """Turns SIGINT, SIGTERM and SIGUSR1 into a request that all processes obey between the same two steps.

    A context manager around `Trainer.fit`. The first signal asks for a stop; a second one acts at once, as if
    nobody had caught it. With several processes the flag travels in an asynchronous all-reduce over CPU
    memory that overlaps a step, so that no device waits for it and ranks agree one step later. A process that
    died is noticed there, too, one step later, whatever the device.

    Args:
        timeout_s: how long processes wait for each other, in seconds.
    """

    def __init__(self, timeout_s: float = 1800) -> None:
        super().__init__()
        self.timeout = timedelta(seconds=timeout_s)
        self._group: Any = None
        self._flying: tuple[Any, torch.Tensor] | None = None

    def own_signals(self, trainer: pl.Trainer) -> None:
        """Keep Lightning's SIGTERM handling out: it ends ranks at different steps and waits for the device in each."""
        connector: Any = trainer._signal_connector
        connector.register_signal_handlers = lambda: None
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]

    def connect(self) -> None:
        """Prepare the agreement (a collective call, once the process group exists)."""
        if world()[1] > 1:
            self._group = distributed.new_group(backend="gloo", timeout=self.timeout)

    def check_same(self, step: int) -> None:
        """Refuse to begin when processes resumed from different states (a collective call, after `connect`).

        Raises:
            CheckpointError: on all processes.
        """
        if self._group is None:
            return
        span = torch.tensor([step, -step])
        distributed.all_reduce(span, distributed.ReduceOp.MAX, group=self._group)
        newest, oldest = int(span[0]), -int(span[1])
        if newest != oldest:
            raise CheckpointError(
                f"processes found different states of this run (after step {oldest} and after step {newest}). All "
                "machines need the same paths.runs, on a file system that they share"
            )

    def agreed(self) -> int | None:
        """The signal that all processes stop for, or None; a collective call, once per step."""
        if self._group is None:
            return self.received
        if self._settle():
            return self.received
        flag = torch.tensor([self.received or 0])
        work = distributed.all_reduce(flag, distributed.ReduceOp.MAX, group=self._group, async_op=True)
        self._flying = (work, flag)
        return None

    def disconnect(self) -> None:
        """Wait for the agreement under way, so that no collective is left when the group is destroyed."""
        self._settle()
        self._group = None

    def _settle(self) -> bool:
        """Whether the agreement under way asks for a stop."""
        if self._flying is None:
            return False
        work, flag = self._flying
        self._flying = None
        work.wait()
        if int(flag) > 0:
            self.received = int(flag)
        return int(flag) > 0

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.received = number
        if int(os.environ.get("LOCAL_RANK", "0")) == 0:
            again = "; Ctrl-C again stops at once" if number == signal.SIGINT else ""
            os.write(2, f"\n{signal.Signals(number).name}: stopping after this step{again}\n".encode())
