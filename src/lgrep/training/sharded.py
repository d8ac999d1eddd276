"""The strategies `fsdp2` and `ddp_static`."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy, StrategyRegistry
from torch import Tensor

from lgrep.methods.modules.sharding import average_scalars


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2 over all processes; checkpoints are gathered into the one file that other strategies write, too.

    Parameters are divided in `Method.configure_model`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(save_distributed_checkpoint=False, **options)

    def setup_environment(self) -> None:
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        state = super().load_checkpoint(checkpoint_path, weights_only)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:  # the way through a gathered state makes lists of tuples
                group.update({key: tuple(value) for key, value in group.items() if key == "betas"})
        return state

    def post_backward(self, closure_loss: Tensor) -> None:
        assert isinstance(self.lightning_module, torch.nn.Module)
        average_scalars(self.lightning_module)


def register() -> None:
    """Make the strategies known to Lightning by name."""
    if "fsdp2" not in StrategyRegistry:
        StrategyRegistry.register("fsdp2", ShardedStrategy, "FSDP2 over all processes")
        StrategyRegistry.register(
            "ddp_static", DDPStrategy, "DDP whose graph is the same in every step", static_graph=True
        )
