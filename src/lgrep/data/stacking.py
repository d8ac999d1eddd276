"""From the views of single pictures to a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info


def stack_views(views: Sequence[Any]) -> Tensor:
    """Views [3, H, W] as a tensor [B, 3, H, W] in their memory order.

    Crops come as [H, W, 3] in memory; turning them costs more than copying them, and whoever makes floats of them
    does it in passing. A loading process writes to shared memory at once.

    Args:
        views: arrays or tensors of one shape and type.
    """
    if not isinstance(views[0], np.ndarray):
        return torch.stack(list(views))
    last = not views[0].flags.c_contiguous and views[0].transpose(1, 2, 0).flags.c_contiguous
    stored = [view.transpose(1, 2, 0) for view in views] if last else list(views)
    if get_worker_info() is None:
        batch = torch.from_numpy(np.stack(stored))
    else:
        storage: Any = torch.UntypedStorage
        batch = torch.empty(0, dtype=torch.from_numpy(stored[0][:0]).dtype)
        batch.set_(storage._new_shared(stored[0].nbytes * len(stored)))
        np.stack(stored, out=batch.resize_(len(stored), *stored[0].shape).numpy())
    return batch.permute(0, 3, 1, 2) if last else batch
