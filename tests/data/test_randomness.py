import numpy as np

from lgrep.data.randomness import PAIRING_STREAM, keyed_generator


def test_each_part_of_the_key_changes_the_numbers() -> None:
    keys = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 0, 0, PAIRING_STREAM)]
    draws = [tuple(keyed_generator(*key).random(4)) for key in keys]
    assert len(set(draws)) == len(keys)
    assert draws == [tuple(keyed_generator(*key).random(4)) for key in keys]


def test_streams_do_not_run_into_each_other() -> None:
    """A long stream of one anchor must not reach the numbers of the next anchor."""
    long = keyed_generator(0, 0, 5, 0).random(4000)
    assert not np.isin(keyed_generator(0, 0, 6, 0).random(4), long).any()
    assert not np.isin(keyed_generator(0, 0, 5, 1).random(4), long).any()


def test_draws_over_anchors_are_uniform() -> None:
    from scipy.stats import kstest

    first = [keyed_generator(3, 2, anchor, 1).random() for anchor in range(2000)]
    assert kstest(first, "uniform").pvalue > 1e-3
