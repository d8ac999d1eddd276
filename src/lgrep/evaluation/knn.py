"""k-nearest-neighbour classification by cosine similarity (Wu et al., 2018, https://arxiv.org/abs/1805.01978)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from lgrep.errors import DataError

BLOCK_BYTES = 64 * 2**20  # largest block of the query x gallery similarity matrix


@torch.no_grad()
def knn_predict(
    gallery: Tensor,
    labels: Tensor,
    queries: Tensor,
    k: int = 20,
    num_classes: int | None = None,
    temperature: float | None = None,
    exclude: tuple[Tensor, Tensor] | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Tensor:
    """Class of every query by a vote of its k most similar gallery items.

    Ties are settled without chance: of equally similar items the one with the lower gallery row is the
    nearer neighbour, of classes with equal votes the lower class number wins.

    Args:
        gallery: features [N, D], any scale.
        labels: Long[N], classes 0..K-1.
        queries: features [M, D].
        k: neighbours that vote.
        num_classes: K; the largest label + 1 when None.
        temperature: None gives every neighbour one vote; T gives a neighbour of cosine s exp(s / T).
        exclude: (Long[M], Long[N]); a gallery item never votes on a query with an equal number. A query
            left with fewer than k items is decided by those.
        block_bytes: at most this much of the similarity matrix exists at a time (one row at least).

    Returns:
        Long[M] on the device of `queries`.

    Raises:
        DataError: k is not within 1..N, or sizes disagree.

    >>> knn_predict(torch.eye(2), torch.tensor([0, 1]), torch.tensor([[3.0, 1.0]]), k=1)
    tensor([0])
    """
    return knn_grid(gallery, labels, queries, (k,), num_classes, (temperature,), exclude, block_bytes)[k, temperature]


@torch.no_grad()
def knn_grid(
    gallery: Tensor,
    labels: Tensor,
    queries: Tensor,
    ks: Sequence[int],
    num_classes: int | None = None,
    temperatures: Sequence[float | None] = (None,),
    exclude: tuple[Tensor, Tensor] | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> dict[tuple[int, float | None], Tensor]:
    """`knn_predict` for several k and temperatures in one pass over the gallery.

    Args:
        gallery, labels, queries, num_classes, exclude, block_bytes: see `knn_predict`.
        ks: numbers of neighbours.
        temperatures: see `knn_predict`.

    Returns:
        (k, temperature) -> Long[M].

    Raises:
        DataError: a k is not within 1..N, or sizes disagree.
    """
    for k in ks:
        _check(gallery, labels, queries, k)
    classes = num_classes if num_classes is not None else int(labels.max()) + 1
    gallery = functional.normalize(_wide(gallery), dim=1)
    labels = labels.to(gallery.device)
    rows = max(1, block_bytes // (gallery.element_size() * len(gallery)))
    out: dict[tuple[int, float | None], list[Tensor]] = {(k, t): [] for k in ks for t in temperatures}
    for start in range(0, len(queries), rows):
        block = functional.normalize(_wide(queries[start : start + rows]), dim=1)
        similarity = block @ gallery.T
        if exclude is not None:
            mine = exclude[0][start : start + rows].to(labels)
            similarity.masked_fill_(mine[:, None] == exclude[1].to(labels)[None], -torch.inf)
        nearest, index = _nearest(similarity, max(ks))
        for temperature in temperatures:
            for k, predicted in _votes(nearest, labels[index], sorted(set(ks)), classes, temperature):
                out[k, temperature].append(predicted)
    return {key: torch.cat(parts) if parts else labels.new_zeros(0) for key, parts in out.items()}


def _votes(
    nearest: Tensor, voted: Tensor, ks: Sequence[int], classes: int, temperature: float | None
) -> Iterator[tuple[int, Tensor]]:
    """(k, Long[B] classes) for ascending k; every neighbour is counted once."""
    # relative to the largest cosine, so that a small temperature does not overflow
    weight = torch.ones_like(nearest) if temperature is None else torch.exp((nearest - 1) / temperature)
    weight = weight.masked_fill(nearest == -torch.inf, 0.0)
    votes = weight.new_zeros(len(nearest), classes)
    counted = 0
    for k in ks:
        votes.scatter_add_(1, voted[:, counted:k], weight[:, counted:k])
        counted = k
        yield k, votes.argmax(1)


def _nearest(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest entries of every row in descending order; equal ones by column, the lowest first."""
    value, index = similarity.topk(k, dim=1)
    # topk may take any of the entries that equal the k-th; only such rows pay for a stable sort
    tied = ((similarity >= value[:, -1:]).sum(1) > k).nonzero()[:, 0]
    if len(tied):
        ordered = similarity[tied].sort(dim=1, descending=True, stable=True)
        value[tied], index[tied] = ordered.values[:, :k], ordered.indices[:, :k]
    mixed = ((value[:, 1:] == value[:, :-1]) & (index[:, 1:] < index[:, :-1])).any(1).nonzero()[:, 0]
    if len(mixed):
        columns, order = index[mixed].sort(dim=1)
        ordered = value[mixed].gather(1, order).sort(dim=1, descending=True, stable=True)
        value[mixed], index[mixed] = ordered.values, columns.gather(1, ordered.indices)
    return value, index


def _wide(features: Tensor) -> Tensor:
    return features if features.dtype == torch.float64 else features.float()


def _check(gallery: Tensor, labels: Tensor, queries: Tensor, k: int) -> None:
    if gallery.ndim != 2 or queries.ndim != 2 or gallery.shape[1] != queries.shape[1] or len(labels) != len(gallery):
        raise DataError(
            f"kNN needs gallery [N, D], N labels and queries [M, D], got {tuple(gallery.shape)}, "
            f"{len(labels)} labels and {tuple(queries.shape)}"
        )
    if not 1 <= k <= len(gallery):
        raise DataError(f"k={k} neighbours asked from a gallery of {len(gallery)} items; choose k in 1..{len(gallery)}")
