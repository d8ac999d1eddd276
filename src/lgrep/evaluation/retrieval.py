"""Retrieval: where the first right gallery item stands in the ranking of a query."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from lgrep.errors import DataError
from lgrep.evaluation.knn import BLOCK_BYTES

RECALL_AT = (1, 5)


@torch.no_grad()
def retrieval_ranks(
    queries: Tensor,
    gallery: Tensor,
    query_ids: Tensor,
    gallery_ids: Tensor,
    block_bytes: int = BLOCK_BYTES,
    same_set: bool = False,
) -> Tensor:
    """Rank (1 = first) of the most similar gallery item that has the query's id.

    Wrong items that are exactly as similar count as ranked before it, so that a collapsed encoder gets
    no credit for ties.

    Args:
        queries: features [M, D], any scale; compared by cosine.
        gallery: features [N, D].
        query_ids: Long[M].
        gallery_ids: Long[N]; items with the query's id are right.
        block_bytes: at most this much of the similarity matrix exists at a time (one row at least).
        same_set: gallery item i is query i itself, which never counts as found; M <= N.

    Returns:
        Long[M].

    Raises:
        DataError: a query has no right item in the gallery, or sizes disagree.
    """
    _check(queries, gallery, query_ids, gallery_ids, same_set)

    def right(start: int, stop: int) -> Tensor:
        return query_ids[start:stop, None] == gallery_ids[None]

    return _ranks(queries, gallery, right, block_bytes, same_set)


@torch.no_grad()
def pair_ranks(queries: Tensor, gallery: Tensor, pairs: Tensor, block_bytes: int = BLOCK_BYTES) -> Tensor:
    """`retrieval_ranks` where any gallery items may be right for a query, as with several captions per picture.

    Args:
        queries: features [M, D], any scale; compared by cosine.
        gallery: features [N, D].
        pairs: Long[P, 2], rows (query, gallery item) that belong together; each query in one at least.
        block_bytes: at most this much of the similarity matrix exists at a time (one row at least).

    Returns:
        Long[M].

    Raises:
        DataError: a query in no pair, or sizes disagree.
    """
    _check_features(queries, gallery)
    pairs = pairs[pairs[:, 0].argsort()]
    counts = torch.bincount(pairs[:, 0], minlength=len(queries))
    _check_lost((counts == 0).nonzero()[:, 0].tolist())
    ends = counts.cumsum(0)

    def right(start: int, stop: int) -> Tensor:
        own = pairs[int(ends[start] - counts[start]) : int(ends[stop - 1])]
        mask = torch.zeros(stop - start, len(gallery), dtype=torch.bool, device=queries.device)
        mask[own[:, 0] - start, own[:, 1]] = True
        return mask

    return _ranks(queries, gallery, right, block_bytes)


def rank_metrics(ranks: Tensor, recall_at: Sequence[int] = RECALL_AT) -> dict[str, float]:
    """`R@k` (share of ranks <= k) and `MRR` (mean of 1 / rank)."""
    wide = ranks.double()
    values = {f"R@{k}": (ranks <= k).double().mean().item() for k in recall_at}
    return {**values, "MRR": (1 / wide).mean().item()}


def chance_metrics(query_ids: Tensor, gallery_ids: Tensor, recall_at: Sequence[int] = RECALL_AT) -> dict[str, float]:
    """What `rank_metrics` gives in expectation when the gallery is ranked at random.

    With r right items among N the first of them stands after rank j with probability
    C(N - r, j) / C(N, j).
    """
    size = len(gallery_ids)
    count = (query_ids[:, None] == gallery_ids[None]).sum(1)
    total: dict[str, float] = {f"R@{k}": 0.0 for k in recall_at} | {"MRR": 0.0}
    for right, queries in zip(*(part.tolist() for part in torch.unique(count, return_counts=True)), strict=True):
        later = [1.0]  # later[j]: probability that no right item is among the first j
        for j in range(size):
            later.append(later[-1] * max(0, size - right - j) / (size - j))
        for k in recall_at:
            total[f"R@{k}"] += queries * (1 - later[min(k, size)])
        total["MRR"] += queries * sum((later[j] - later[j + 1]) / (j + 1) for j in range(size))
    return {name: value / len(query_ids) for name, value in total.items()}


def _ranks(
    queries: Tensor, gallery: Tensor, right_of: Callable[[int, int], Tensor], block_bytes: int, same_set: bool = False
) -> Tensor:
    """Ranks by blocks of queries; `right_of(start, stop)` marks right items, bool [stop - start, N]."""
    gallery = functional.normalize(gallery.float(), dim=1)
    rows = max(1, block_bytes // (gallery.element_size() * max(1, len(gallery))))
    out = []
    for start in range(0, len(queries), rows):
        stop = min(start + rows, len(queries))
        similarity = functional.normalize(queries[start:stop].float(), dim=1) @ gallery.T
        right = right_of(start, stop)
        if same_set:
            own = torch.arange(stop - start, device=queries.device)
            similarity[own, own + start] = -torch.inf
            right[own, own + start] = False
        best = similarity.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
        out.append(1 + ((similarity >= best) & ~right).sum(1))
    return torch.cat(out) if out else torch.zeros(0, dtype=torch.long, device=queries.device)


def _check(queries: Tensor, gallery: Tensor, query_ids: Tensor, gallery_ids: Tensor, same_set: bool) -> None:
    _check_features(queries, gallery)
    if len(queries) != len(query_ids) or len(gallery) != len(gallery_ids):
        raise DataError(
            f"one id per row is needed: {len(queries)} queries with {len(query_ids)} ids, "
            f"{len(gallery)} gallery items with {len(gallery_ids)} ids"
        )
    lost = ~torch.isin(query_ids, gallery_ids)
    if same_set:
        if len(queries) > len(gallery):
            raise DataError(f"{len(queries)} queries cannot be among a gallery of {len(gallery)} items")
        _, number, counts = torch.unique(gallery_ids, return_inverse=True, return_counts=True)
        lost = counts[number[: len(queries)]] < 2
    _check_lost(lost.nonzero()[:, 0].tolist())


def _check_features(queries: Tensor, gallery: Tensor) -> None:
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise DataError(f"features must be [M, D] and [N, D], got {tuple(queries.shape)} and {tuple(gallery.shape)}")


def _check_lost(lost: list[int]) -> None:
    if lost:
        raise DataError(f"{len(lost)} queries have no right item in the gallery, first the one of row {lost[0]}")
