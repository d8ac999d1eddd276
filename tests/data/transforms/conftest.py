"""Pictures and parameter draws shared by the transform tests."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor


@pytest.fixture
def photo() -> Image.Image:
    """A smooth picture with some texture, 90 x 70 pixels."""
    rng = np.random.default_rng(5)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)).resize((90, 70), Image.Resampling.BICUBIC)
    noisy = np.asarray(coarse, int) + rng.integers(-9, 10, (70, 90, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


@pytest.fixture
def pictures() -> Tensor:
    """float32 [10, 3, 20, 27] in [0, 1]; the last ones are black, white and grey."""
    batch = torch.rand(10, 3, 20, 27, generator=torch.Generator().manual_seed(1))
    batch[7], batch[8] = 0.0, 1.0
    batch[9] = batch[9, :1]
    return batch
