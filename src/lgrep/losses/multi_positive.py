"""Contrastive losses with any number of positives per anchor (StableRep)."""

from __future__ import annotations

import torch
from torch import Tensor

from lgrep.losses.checks import check_embeddings, check_pairs, check_positive, check_scale, check_tensor, counted_rows
from lgrep.losses.gather import Gradients, Rows, gather, gather_keys, sum_over_processes
from lgrep.losses.partition import Pairs, log_partition, log_partition_both, log_partition_self
from lgrep.losses.precision import full_precision, unit_rows


def multi_positive_contrastive(
    features: Tensor,
    labels: Tensor,
    temperature: float = 0.1,
    ignore_lonely: bool = False,
    positives: tuple[Tensor, Tensor, Tensor] | None = None,
    ignore: Pairs | None = None,
    *,
    gather_gradients: Gradients = "exact",
    block: int | None = None,
) -> Tensor:
    """Cross-entropy between the similarity softmax and a distribution over the positives.

    For anchor i with positives P(i) of weights w, the other rows of the global batch, and unit embeddings z,
    the loss is::

        log sum_{j != i} exp(z_i z_j / t)  -  sum_{p in P(i)} w_ip z_i z_p / t  /  sum_{p in P(i)} w_ip

    Rows with the anchor's label are positives of weight 1. An anchor without a positive counts 0. The lower
    bound is ln |P(i)| for equal weights, so ln(V - 1) for V views.

    Args:
        features: [n, D], unnormalised, this process's rows; n may differ between processes.
        labels: Long [n]; equal labels mark positives, on whichever process they lie.
        temperature: t > 0.
        ignore_lonely: leave anchors without a positive out of the mean instead of counting them as 0.
        positives: further directed pairs (i, j, weight): Long[P] rows of this process, Long[P] rows of the global
            batch, [P] weights >= 0. j becomes a positive of i, not i of j.
        ignore: directed pairs (i, j), Long[P] each and counted like those of `positives`: j is neither a
            negative nor (by its label) a positive of i.
        gather_gradients: what flows back to rows as candidates of others (`gather_keys`).
        block: side of the blocks that the similarities are computed in; None chooses, 0 the whole matrix.

    Returns:
        Scalar in float32 (float64 for float64 features): the mean over the global batch on one process. On W
        processes each returns W * (sum of its own anchors) / (anchors of all), so the mean over processes is
        the loss of the global batch and the gradient averaged by DDP is its exact gradient.

    Raises:
        ValueError: wrong shapes or types, an empty global batch or a temperature that is not positive.

    Paper:
        Tian et al., StableRep, 2023, https://arxiv.org/abs/2306.00984, equations 1 to 3. With `ignore_lonely` the
        per-anchor term is also L_out of Khosla et al., 2020, https://arxiv.org/abs/2004.11362 (equation 2).

    >>> views = torch.eye(2).repeat(3, 1)  # three equal views of two orthogonal pictures
    >>> loss = multi_positive_contrastive(views, torch.tensor([0, 1, 0, 1, 0, 1]), temperature=0.05)
    >>> bool((loss - torch.log(torch.tensor(2.0))).abs() < 1e-6)
    True
    """
    check_embeddings(features=features)
    check_positive(temperature=temperature)
    check_tensor("labels", labels, "Long", (features.shape[0],), features.device)
    check_pairs(features, positives=positives, ignore=ignore)
    rows = counted_rows("features", features.shape[0])
    with full_precision(features):
        local = unit_rows(features)
        keys = gather_keys(local, rows, gather_gradients)
        if rows.world_size == 1 and ignore is None:
            partition = log_partition_self(local, 1 / temperature, block)
        else:
            spans = [(0, len(local), rows.offset)]
            partition = log_partition(local, keys, 1 / temperature, spans, ignore, block)
        all_labels = gather(labels, rows=rows)
        attraction, weight = _group_attraction(local, keys, all_labels, rows)
        for (i, j), signed in _sparse(labels, all_labels, positives, ignore, local):
            similarity = (local[i] * keys[j]).sum(dim=1)
            attraction = attraction.index_add(0, i, signed * similarity)
            weight = weight.index_add(0, i, signed)
        lonely = weight <= 0
        mean = attraction / weight.masked_fill(lonely, 1.0) / temperature
        per_anchor = (partition.masked_fill(lonely, 0.0) - mean).masked_fill(lonely, 0.0)
        anchors: Tensor | int = rows.total
        if ignore_lonely:
            anchors = sum_over_processes((~lonely).sum()).clamp(min=1)
        return rows.world_size * per_anchor.sum() / anchors


def multi_positive_image_text(
    image: Tensor,
    text: Tensor,
    image_labels: Tensor,
    text_labels: Tensor,
    logit_scale: float | Tensor,
    *,
    gather_gradients: Gradients = "exact",
    block: int | None = None,
) -> Tensor:
    """Image-text contrast where several pictures share a caption; the mean of both directions.

    A picture's targets are the texts with its label, a text's targets the pictures with its label, uniformly.
    Rows without a target count 0. With V pictures per caption the lower bound is ln(V) / 2.

    Args:
        image: [m, D], unnormalised, this process's pictures.
        text: [b, D], unnormalised, this process's texts.
        image_labels: Long [m].
        text_labels: Long [b].
        logit_scale: multiplier of the cosines, already exponentiated; a 0-dim tensor gets a gradient.
        gather_gradients: what flows back to rows as candidates of others (`gather_keys`).
        block: side of the blocks that the similarities are computed in; None chooses, 0 the whole matrix.

    Returns:
        Scalar, the mean over pictures and texts of the global batch; on W processes as in
        `multi_positive_contrastive`.

    Raises:
        ValueError: wrong shapes or types, or an empty global batch.

    Paper:
        Tian et al., StableRep+, 2023, https://arxiv.org/abs/2306.00984, section 3.3 (0.5 (i2t + t2i)).

    >>> image, text = torch.eye(2).repeat(2, 1), torch.eye(2)
    >>> loss = multi_positive_image_text(image, text, torch.tensor([0, 1, 0, 1]), torch.tensor([0, 1]), 100.0)
    >>> bool((loss - torch.log(torch.tensor(2.0)) / 2).abs() < 1e-6)
    True
    """
    check_embeddings(image=image)
    check_embeddings(text=text)
    if image.shape[1] != text.shape[1]:
        raise ValueError(f"image and text must share D; got {list(image.shape)} and {list(text.shape)}.")
    check_tensor("image_labels", image_labels, "Long", (image.shape[0],), image.device)
    check_tensor("text_labels", text_labels, "Long", (text.shape[0],), text.device)
    check_scale(logit_scale)
    pictures = counted_rows("image", image.shape[0])
    texts = counted_rows("text", text.shape[0])
    with full_precision(image):
        image, text = unit_rows(image), unit_rows(text)
        image_keys = gather_keys(image, pictures, gather_gradients)
        text_keys = gather_keys(text, texts, gather_gradients)
        if pictures.world_size == 1:
            over_texts, over_images = log_partition_both(image, text, logit_scale, block)
        else:
            over_texts = log_partition(image, text_keys, logit_scale, block=block)
            over_images = log_partition(text, image_keys, logit_scale, block=block)
        all_labels = torch.cat([gather(image_labels, rows=pictures), gather(text_labels, rows=texts)])
        ids = _dense_ids(all_labels)
        image_ids, text_ids = ids[: pictures.total], ids[pictures.total :]
        loss = image.new_zeros(())
        for side, partition, query_ids, keys, key_ids, layout in (
            (image, over_texts, image_ids[pictures.own], text_keys, text_ids, pictures),
            (text, over_images, text_ids[texts.own], image_keys, image_ids, texts),
        ):
            count = torch.zeros(len(ids), dtype=side.dtype, device=side.device)
            count = count.index_add(0, key_ids, torch.ones_like(key_ids, dtype=side.dtype))[query_ids]
            sums = side.new_zeros((len(ids), side.shape[1])).index_add(0, key_ids, keys)
            mean = (side * sums[query_ids]).sum(dim=1) / count.clamp(min=1)
            per_row = (partition - logit_scale * mean).masked_fill(count == 0, 0.0)
            loss = loss + layout.world_size * per_row.sum() / layout.total / 2
        return loss


def multi_positive_query_key(
    queries: Tensor,
    keys: Tensor,
    query_labels: Tensor,
    key_labels: Tensor,
    temperature: float = 0.1,
    skip_own: bool = False,
    *,
    block: int | None = None,
) -> Tensor:
    """`multi_positive_contrastive` of queries with the keys of another network.

    A query's positives are the keys with its label. A query without one counts 0 and stays in the mean.

    Args:
        queries: [n, D], unnormalised predictions, this process's rows; n may differ between processes.
        keys: [m, D], unnormalised projections of the teacher; constants.
        query_labels: Long [n].
        key_labels: Long [m].
        temperature: > 0.
        skip_own: the key in a query's own place was made from the same picture and is neither its positive nor its
            negative; needs n = m on every process.
        block: side of the blocks that the similarities are computed in; None chooses, 0 the whole matrix.

    Returns:
        Scalar; on W processes as in `multi_positive_contrastive`.

    Raises:
        ValueError: wrong shapes or types, an empty global batch or a temperature that is not positive.

    Paper:
        Tian et al., SynCLR, 2023, https://arxiv.org/abs/2312.17742, section 3.3.

    >>> rows, labels = torch.eye(2).repeat(3, 1), torch.tensor([0, 1, 0, 1, 0, 1])
    >>> loss = multi_positive_query_key(rows, rows, labels, labels, temperature=0.05, skip_own=True)
    >>> bool((loss - torch.log(torch.tensor(2.0))).abs() < 1e-6)
    True
    """
    check_embeddings(queries=queries)
    check_embeddings(keys=keys)
    check_positive(temperature=temperature)
    check_tensor("query_labels", query_labels, "Long", (queries.shape[0],), queries.device)
    check_tensor("key_labels", key_labels, "Long", (keys.shape[0],), queries.device)
    if skip_own and len(queries) != len(keys):
        raise ValueError(f"skip_own needs a key for every query; got {len(queries)} queries and {len(keys)} keys.")
    rows, key_rows = counted_rows("queries", len(queries)), counted_rows("keys", len(keys))
    with full_precision(queries):
        units = unit_rows(queries)
        own = unit_rows(keys.detach()).to(units)
        every = gather(own, rows=key_rows)
        spans = [(0, len(units), key_rows.offset)] if skip_own else []
        partition = log_partition(units, every, 1 / temperature, spans, block=block)
        ids = _dense_ids(torch.cat([query_labels, gather(key_labels, rows=key_rows)]))
        query_ids, key_ids = ids[: len(units)], ids[len(units) :]
        sums = units.new_zeros((len(ids), units.shape[1])).index_add(0, key_ids, every)[query_ids]
        count = units.new_zeros(len(ids)).index_add(0, key_ids, torch.ones_like(key_ids, dtype=units.dtype))[query_ids]
        if skip_own:
            same = (query_labels == key_labels).to(units)
            sums, count = sums - same[:, None] * own, count - same
        lonely = count <= 0
        mean = (units * sums).sum(dim=1) / count.clamp(min=1) / temperature
        per_query = (partition.masked_fill(lonely, 0.0) - mean).masked_fill(lonely, 0.0)
        return rows.world_size * per_query.sum() / rows.total


def _group_attraction(local: Tensor, keys: Tensor, labels: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    """For each local row: the sum of its similarities to the other rows of its label [n], and their number [n].

    Found through the sum of each label's rows, so no matrix of pairs is made.
    """
    ids = _dense_ids(labels)
    own = ids[rows.own]
    sums = torch.zeros_like(keys).index_add(0, ids, keys)
    count = keys.new_zeros(len(ids)).index_add(0, ids, torch.ones_like(ids, dtype=keys.dtype))
    return (local * (sums[own] - keys[rows.own])).sum(dim=1), count[own] - 1


def _dense_ids(labels: Tensor) -> Tensor:
    """Labels renamed to 0, 1, ...; unlike torch.unique, no device is waited for.

    >>> _dense_ids(torch.tensor([7, -1, 7]))
    tensor([1, 0, 1])
    """
    ordered, order = labels.sort()
    ranks = torch.zeros_like(labels)
    ranks[1:] = (ordered[1:] != ordered[:-1]).cumsum(0)
    return torch.empty_like(labels).scatter_(0, order, ranks)


def _sparse(
    labels: Tensor,
    all_labels: Tensor,
    positives: tuple[Tensor, Tensor, Tensor] | None,
    ignore: Pairs | None,
    like: Tensor,
) -> list[tuple[Pairs, Tensor]]:
    """Pairs and what they add to the weight of a positive: ignored ones take back what the label gave."""
    found: list[tuple[Pairs, Tensor]] = []
    if positives is not None:
        found.append(((positives[0], positives[1]), positives[2].to(like)))
    if ignore is not None:
        found.append((ignore, -(labels[ignore[0]] == all_labels[ignore[1]]).to(like)))
    return found
