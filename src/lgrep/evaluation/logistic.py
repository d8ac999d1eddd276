"""Penalised logistic regression: features in well-conditioned coordinates, and the losses on their logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

BLOCK_BYTES = 64 * 2**20  # of float64 copies of features while they are rotated
SAMPLED_ROWS = 2000
CACHED_BYTES = 2**20  # of the logits of a block of rows
TURNED_BYTES = 2**28  # of coarse rows that are also kept as columns, which halves the time of products back


class Design:
    """Features centred and turned to their principal axes, with a column of ones for the bias.

    An orthogonal change of variables leaves a penalty on |W|^2, and a shift only moves the unpenalised bias, so
    the problem is the same; but its Hessian becomes nearly diagonal, which a diagonal preconditioner then cures.
    Directions without variance drop out: with fewer rows than features the problem is that much smaller.

    Args:
        features: [N, D], float32 or float64; the arithmetic stays in that dtype on that device.

    Attributes:
        rows: [N, R + 1] the turned features, R <= min(N, D).
        coarse: the same for products that need not be exact (bfloat16 where the hardware multiplies it fast).
        columns: the transpose of `coarse`, laid out by columns; None where both together would be large.
        moments: [R + 1] mean square of every column.
        axes: float64 [D, R].
        mean: float64 [D].
    """

    def __init__(self, features: Tensor) -> None:
        count, dim = features.shape
        self.mean = features.mean(0, dtype=torch.float64)
        blocks = torch.split(features, max(1, BLOCK_BYTES // (8 * max(1, dim))))
        limit = max(count, dim) * torch.finfo(torch.float64).eps
        if count < dim:
            centred = features.double() - self.mean
            values, left = torch.linalg.eigh(centred @ centred.T / count)
            values, left = values[values > limit * values.amax()], left[:, values > limit * values.amax()]
            lengths = (values * count).sqrt()
            self.axes, turned = centred.T @ (left / lengths), (left * lengths).to(features.dtype)
        else:
            gram = features.new_zeros(dim, dim, dtype=torch.float64)
            for block in blocks:
                wide = block.double() - self.mean
                gram.addmm_(wide.T, wide, alpha=1 / count)
            values, vectors = torch.linalg.eigh(gram)
            kept = values > limit * values.amax()
            values, self.axes = values[kept], vectors[:, kept]
            turned = torch.cat([((block.double() - self.mean) @ self.axes).to(features.dtype) for block in blocks])
        self.rows = torch.cat([turned, turned.new_ones(count, 1)], 1)
        self.moments = torch.cat([values, values.new_ones(1)]).to(features.dtype)
        self._approximate()

    def subset(self, rows: Tensor) -> Design:
        """The design of some rows Long[M], on these axes: nearly principal for them too, and without turning them anew."""
        some = object.__new__(Design)
        some.mean, some.axes, some.rows = self.mean, self.axes, self.rows[rows]
        some.moments = some.rows.square().mean(0, dtype=torch.float64).to(some.rows.dtype)
        some._approximate()
        return some

    def _approximate(self) -> None:
        self.coarse = self.rows.to(coarse_dtype(self.rows))
        both = self.coarse.dtype != self.rows.dtype and self.coarse.nbytes <= TURNED_BYTES
        self.columns = self.coarse.T.contiguous() if both and self.coarse.device.type == "cpu" else None

    def back(self, values: Tensor, rows: slice) -> Tensor:
        """[K, R + 1] values [M, K] of some rows times their coarse features."""
        thin = values.to(self.coarse.dtype)
        if self.columns is None:
            return thin.T @ self.coarse[rows]
        return (self.columns[:, rows] @ thin).T

    def logits(self, weight: Tensor) -> Tensor:
        """[N, K] of weight [K, R + 1] (the bias last)."""
        return self.rows @ weight.T

    def original(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(weight float64 [K, D], bias float64 [K]) of the features as they came."""
        wide = weight.double()
        turned = wide[:, :-1] @ self.axes.T
        return turned, wide[:, -1] - turned @ self.mean

    def turned(self, weight: Tensor, bias: Tensor) -> Tensor:
        """The inverse of `original`: [K, R + 1]; what lies in directions without variance is lost."""
        wide = weight.double()
        both = torch.cat([wide @ self.axes, (bias.double() + wide @ self.mean)[:, None]], 1)
        return both.to(self.rows.dtype)


def coarse_dtype(features: Tensor) -> torch.dtype:
    """bfloat16 where matrix units multiply it several times faster than float32, else the features' dtype."""
    if features.device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else features.dtype
    # without matrix units the conversion costs more than it saves; torch has no public name for this question
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return torch.bfloat16 if features.device.type == "cpu" and supported is not None and supported() else features.dtype


class Link(Protocol):
    """A loss on logits of some rows of the data, with its derivatives; `rows` says which."""

    def empty(self) -> float:
        """Mean loss when nothing but the best bias is known."""
        ...

    def total(self, logits: Tensor, rows: slice) -> Tensor:
        """float64 sum over rows of logits [B, K]."""
        ...

    def probabilities(self, logits: Tensor) -> Tensor: ...

    def residual(self, probabilities: Tensor, rows: slice) -> Tensor:
        """Gradient [B, K]; `probabilities` stay."""
        ...

    def curve(self, probabilities: Tensor, direction: Tensor) -> Tensor:
        """Hessian of every row times direction [B, K], which is overwritten."""
        ...


class Softmax:
    """Cross-entropy of one class per row. Args: labels Long[N]."""

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels[:, None]
        share = labels.bincount().double() / len(labels)
        self._empty = float(-torch.xlogy(share, share).sum())

    def empty(self) -> float:
        return self._empty

    def total(self, logits: Tensor, rows: slice) -> Tensor:
        own = logits.gather(1, self.labels[rows])[:, 0]
        return (logits.logsumexp(1) - own).sum(dtype=torch.float64)

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.softmax(1)

    def residual(self, probabilities: Tensor, rows: slice) -> Tensor:
        minus_one = probabilities.new_full((1, 1), -1.0).expand(len(probabilities), 1)
        return probabilities.scatter_add(1, self.labels[rows], minus_one)

    def curve(self, probabilities: Tensor, direction: Tensor) -> Tensor:
        weighted = direction.mul_(probabilities)
        return weighted.addcmul_(probabilities, weighted.sum(1, keepdim=True), value=-1)


class Sigmoid:
    """One binary cross-entropy per class, summed over classes. Args: targets [N, K] of 0 and 1."""

    def __init__(self, targets: Tensor) -> None:
        self.targets = targets
        share = targets.mean(0, dtype=torch.float64)
        self._empty = float(-(torch.xlogy(share, share) + torch.xlogy(1 - share, 1 - share)).sum())

    def empty(self) -> float:
        return self._empty

    def total(self, logits: Tensor, rows: slice) -> Tensor:
        return (functional.softplus(logits) - self.targets[rows] * logits).sum(dtype=torch.float64)

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()

    def residual(self, probabilities: Tensor, rows: slice) -> Tensor:
        return probabilities - self.targets[rows]

    def curve(self, probabilities: Tensor, direction: Tensor) -> Tensor:
        return direction.mul_(probabilities * (1 - probabilities))


class Problem:
    """Mean loss of a design's logits and its derivatives, by blocks of rows that stay in the processor's cache.

    Args:
        design: the features.
        link: the loss.
        classes: K.
    """

    def __init__(self, design: Design, link: Link, classes: int) -> None:
        self.design, self.link, self.count = design, link, len(design.rows)
        budget = CACHED_BYTES if design.rows.device.type == "cpu" else BLOCK_BYTES
        step = max(1, budget // (design.rows.element_size() * max(1, classes)))
        self.blocks = [slice(start, start + step) for start in range(0, self.count, step)]

    def loss(self, logits: Sequence[Tensor], shares: Sequence[float], sampled: bool = False) -> float:
        """Mean loss of a combination of logits [N, K]; `sampled`: of evenly spaced rows, good enough to compare."""
        total = logits[0].new_zeros((), dtype=torch.float64)
        stride = max(1, self.count // SAMPLED_ROWS) if sampled else 1
        for rows in self.blocks if stride == 1 else [slice(0, None, stride)]:
            combined = logits[0][rows] * shares[0]
            for more, share in zip(logits[1:], shares[1:], strict=True):
                combined.add_(more[rows], alpha=share)
            total += self.link.total(combined, rows)
        return float(total) / len(range(0, self.count, stride))

    def derive(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(probabilities [N, K], gradient [K, R + 1], mean of p (1 - p) [K])."""
        probabilities = torch.empty_like(logits)
        gradient = logits.new_zeros(logits.shape[1], self.design.rows.shape[1])
        spread = logits.new_zeros(logits.shape[1])
        for rows in self.blocks:
            some = self.link.probabilities(logits[rows])
            probabilities[rows] = some
            gradient.addmm_(self.link.residual(some, rows).T, self.design.rows[rows], alpha=1 / self.count)
            spread += torch.addcmul(some, some, some, value=-1).sum(0)
        return probabilities, gradient, spread / self.count

    def curved(self, probabilities: Tensor, direction: Tensor) -> Tensor:
        """Hessian of the mean loss times direction [K, R + 1], to about three digits."""
        coarse = self.design.coarse
        thin = direction.to(coarse.dtype).T
        out = torch.zeros_like(direction)
        for rows in self.blocks:
            along = (coarse[rows] @ thin).to(direction.dtype)
            out += self.design.back(self.link.curve(probabilities[rows], along), rows)
        return out / self.count
