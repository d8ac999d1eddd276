"""The multi-positive contrast of queries with a teacher's keys (SynCLR)."""

from __future__ import annotations

import pytest
import torch
from exactness import COUNTS, DOUBLE, averaged, close, slices, value_and_gradients
from torch.autograd import gradcheck

from lgrep.losses import multi_positive_contrastive, multi_positive_query_key


def by_hand(queries, keys, query_labels, key_labels, temperature, skip_own):
    """The definition, one query and one key at a time."""
    losses = []
    for i, query in enumerate(queries):
        seen = [j for j in range(len(keys)) if not (skip_own and j == i)]
        scores = {j: (query / query.norm()) @ (keys[j] / keys[j].norm()) / temperature for j in seen}
        partition = sum(score.exp() for score in scores.values())
        positives = [j for j in seen if key_labels[j] == query_labels[i]]
        terms = [(partition / scores[j].exp()).log() for j in positives]
        losses.append(sum(terms) / len(terms) if terms else 0.0 * query.sum())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("skip_own", [False, True])
@pytest.mark.parametrize("labels", [[0, 1, 2, 0, 1, 2], [5, 5, 5, 1, 2, 2], [0, 1, 2, 3, 4, 5]])
@pytest.mark.parametrize("block", [0, 2])
def test_equals_its_definition(labels, skip_own, block):
    queries, keys, labels = torch.randn(6, 5, dtype=DOUBLE), torch.randn(6, 5, dtype=DOUBLE), torch.tensor(labels)

    def ours(q):
        return multi_positive_query_key(q, keys, labels, labels, 0.3, skip_own, block=block)

    close(
        value_and_gradients(ours, queries),
        value_and_gradients(lambda q: by_hand(q, keys, labels, labels, 0.3, skip_own), queries),
        1e-12,
    )


def test_other_queries_than_keys():
    queries, keys = torch.randn(7, 4, dtype=DOUBLE, requires_grad=True), torch.randn(5, 4, dtype=DOUBLE)
    own, theirs = torch.tensor([0, 1, 9, 1, 2, 0, 2]), torch.tensor([0, 0, 1, 2, 2])
    loss = multi_positive_query_key(queries, keys, own, theirs, 0.2)
    torch.testing.assert_close(loss, by_hand(queries, keys, own, theirs, 0.2, False))
    assert gradcheck(lambda q: multi_positive_query_key(q, keys, own, theirs, 0.2), queries)


def test_with_its_own_rows_as_keys_it_is_stablereps_loss_without_the_keys_gradient():
    rows, labels = torch.randn(9, 4, dtype=DOUBLE), torch.arange(3).repeat(3)
    ours = multi_positive_query_key(rows, rows, labels, labels, 0.1, skip_own=True)
    torch.testing.assert_close(ours, multi_positive_contrastive(rows, labels, 0.1))


def test_keys_are_constants():
    queries, keys = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    labels = torch.tensor([0, 0, 1, 1])
    multi_positive_query_key(queries, keys, labels, labels).backward()
    assert keys.grad is None and bool((queries.grad.abs().sum(1) > 0).all())


def shard(rank, queries, keys, labels, counts, skip_own):
    own = slices(counts)[rank]
    return value_and_gradients(
        lambda q: multi_positive_query_key(q, keys[own], labels[own], labels[own], 0.2, skip_own), queries[own]
    )


@pytest.mark.parametrize("counts", COUNTS, ids=str)
@pytest.mark.parametrize("skip_own", [False, True])
def test_is_the_same_on_several_processes(run_processes, counts, skip_own):
    queries, keys = torch.randn(2, 12, 4, dtype=DOUBLE)
    labels = torch.tensor([0, 1, 2, 3] * 3)
    results = run_processes(shard, len(counts), queries, keys, labels, counts, skip_own)
    expected = value_and_gradients(lambda q: multi_positive_query_key(q, keys, labels, labels, 0.2, skip_own), queries)
    close(averaged(results), expected, 1e-10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(4, 2), torch.zeros(3, 2), torch.arange(4), torch.arange(3), 0.1, True), "4 queries and 3 keys"),
        ((torch.zeros(4, 2), torch.zeros(4, 2), torch.arange(3), torch.arange(4)), "query_labels must be Long"),
        ((torch.zeros(4, 2), torch.zeros(4, 2), torch.arange(4), torch.arange(4), 0.0), "temperature"),
    ],
)
def test_wrong_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        multi_positive_query_key(*arguments)
