"""Class prototypes from a memory of recent features (t-ReX)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from lgrep.losses.checks import check_tensor
from lgrep.losses.gather import gather


class ClassMeanMemory(nn.Module):
    """The last `size` features with their classes, and the class prototypes that they make.

    It starts with random features and classes, as published, so the first size / N steps train partly
    against noise. Processes have to start equal (one seed, or DDP's broadcast of buffers); updates keep
    them equal.

    Args:
        size: number of entries.
        dim: width D of the features.
        num_classes: C.

    Attributes:
        features: buffer [size, D].
        labels: buffer, Long [size].
        pointer: buffer, Long scalar, where the next batch is written.

    Raises:
        ValueError: a size that is not positive.

    Paper:
        Sariyildiz et al., t-ReX, 2023, https://arxiv.org/abs/2206.15369 (equation 2, OCM).

    >>> memory = ClassMeanMemory(size=4, dim=2, num_classes=3)
    >>> memory.update(torch.tensor([[3.0, 0.0], [1.0, 0.0], [0.0, 2.0], [0.0, 0.0]]), torch.tensor([0, 0, 2, 2]))
    >>> memory.class_weights()
    tensor([[1., 0.],
            [0., 0.],
            [0., 1.]])
    """

    features: Tensor
    labels: Tensor
    pointer: Tensor

    def __init__(self, size: int, dim: int, num_classes: int) -> None:
        super().__init__()
        if min(size, dim, num_classes) < 1:
            raise ValueError(f"size, dim and num_classes must be positive, got {size}, {dim} and {num_classes}.")
        self.num_classes = num_classes
        self.register_buffer("features", torch.randn(size, dim))
        self.register_buffer("labels", torch.randint(num_classes, (size,)))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def class_weights(self) -> Tensor:
        """The unit-length sums [C, D] of each class's features, without gradient.

        Longer features weigh more, as published. A class without an entry has the zero vector, so its
        logit is 0 in `cosine_softmax_logits`.
        """
        sums = self.features.new_zeros(self.num_classes, self.features.shape[1])
        return normalize(sums.index_add_(0, self.labels, self.features), dim=1)

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Writes the rows of all processes, in rank order, over the oldest entries.

        Rows that do not fit before the end of the memory are dropped, and the next batch is written at its
        start, as published. A collective: every process has to call it.

        Args:
            features: [n, D], this process's rows, unnormalised (of the EMA teacher in t-ReX); n may differ
                between processes and may be 0.
            labels: Long [n], from 0 to C - 1 (checked on the CPU only, where reading them waits for nothing).

        Raises:
            ValueError: wrong shapes, types or devices, or labels out of range.
        """
        size, dim = self.features.shape
        check_tensor("features", features, "floating point", ("n", dim), self.features.device)
        check_tensor("labels", labels, "Long", (features.shape[0],), self.features.device)
        self._check_range(labels)
        new_features, new_labels = gather(features.to(self.features.dtype), labels)
        count = new_labels.shape[0]
        if count == 0:
            return
        # each entry picks its row: writing rows at a pointer of the device would make the host wait for it
        source = torch.arange(size, device=labels.device) - self.pointer
        fresh = (source >= 0) & (source < count)
        source = source.clamp(0, count - 1)
        self.features.copy_(torch.where(fresh[:, None], new_features[source], self.features))
        self.labels.copy_(torch.where(fresh, new_labels[source], self.labels))
        end = self.pointer + count
        self.pointer.copy_(end.where(end < size, torch.zeros_like(end)))

    def _check_range(self, labels: Tensor) -> None:
        if labels.device.type != "cpu" or labels.numel() == 0 or torch.compiler.is_compiling():
            return
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= self.num_classes:
            raise ValueError(f"labels must lie in 0..{self.num_classes - 1}, got {low}..{high}.")
