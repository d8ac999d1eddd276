"""CLIP-rocket's text augmentation: behaviour by hand-made cases, probabilities by chi-square tests."""

from __future__ import annotations

import pickle
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from lgrep.data.text import CaptionAugment, Plain
from lgrep.data.text.cleaning import clean_text
from lgrep.data.text.transforms import delete_words, replace_word, swap_words, without_stop_words
from lgrep.errors import ConfigError

Operation = Callable[[str, np.random.Generator], str]


def counts(operation: Operation, text: str, draws: int = 4000) -> Counter[str]:
    rng = np.random.default_rng(11)
    return Counter(operation(text, rng) for _ in range(draws))


def assert_follows(found: Counter[str], expected: dict[str, float]) -> None:
    """The counts have exactly these outcomes, in shares that chance explains."""
    assert found.keys() == expected.keys()
    total = found.total()
    assert chisquare([found[name] for name in expected], [total * share for share in expected.values()]).pvalue > 1e-3


def test_stop_words_leave_a_caption() -> None:
    assert without_stop_words("The dog isn't on the MAT") == "dog n't MAT"
    assert without_stop_words("What is it") == "What is it"  # nothing would be left
    assert without_stop_words("") == ""
    weak = CaptionAugment(stop_words=0.8)
    assert_follows(counts(weak, "the red dog"), {"the red dog": 0.2, "red dog": 0.8})
    assert set(counts(CaptionAugment(stop_words=1.0), "to be or not to be", 50)) == {"to be or not to be"}
    assert set(counts(CaptionAugment(stop_words=0.0), "the dog", 50)) == {"the dog"}


def test_cleaning_comes_before_the_stop_words() -> None:
    rng = np.random.default_rng(0)
    text = "THE&nbsp;dog &amp;amp; a\tcat"
    assert CaptionAugment(clean=True, stop_words=1.0)(text, rng) == "dog & cat"
    assert CaptionAugment(clean=False, stop_words=1.0)(text, rng) == "& nbsp ; dog & amp ; amp ; cat"
    assert CaptionAugment(clean=True, stop_words=0.0)("  ", rng) == ""


def test_weights_are_shares_of_one_choice() -> None:
    strong = CaptionAugment(stop_words=0.0, identity=1, synonym=2, swap=3, deletion=4, deletion_share=1.0)
    # two words without synonyms: `synonym` keeps them, `swap` exchanges them unless three places are the first again
    found = counts(strong, "qux foobaz", 8000)
    swapped = 0.3 * (1 - 0.5**3)
    assert_follows(found, {"qux foobaz": 0.6 - swapped, "foobaz qux": swapped, "qux": 0.2, "foobaz": 0.2})


def test_a_weight_of_zero_is_never_drawn() -> None:
    found = counts(CaptionAugment(stop_words=0.0, synonym=0.0, swap=1.0), "small dog", 500)
    assert found.keys() == {"small dog", "dog small"}


def test_a_word_is_replaced_at_all_its_places() -> None:
    table = {"dog": ("hound", "hunting dog"), "cat": ("tom",), "the": ("never",)}
    found = counts(
        lambda text, rng: replace_word(text, rng, lambda word: table.get(word, ())), "the dog and cat dog qux"
    )
    assert_follows(  # the first of the shuffled words that has synonyms: dog or cat, however often each stands there
        found,
        {
            "the hound and cat hound qux": 0.25,
            "the hunting dog and cat hunting dog qux": 0.25,
            "the dog and tom dog qux": 0.5,
        },
    )
    rng = np.random.default_rng(0)
    assert replace_word("the and", rng, lambda word: ("never",)) == "the and"
    assert replace_word("The", rng, lambda word: ("never",)) == "never"  # EDA's stop words are small letters
    assert replace_word("", rng, lambda word: ("never",)) == ""


def test_two_words_are_exchanged() -> None:
    stays = 3**-3
    others = (1 - stays) / 3
    found = counts(swap_words, "a b c")
    assert_follows(found, {"a b c": stays, "b a c": others, "c b a": others, "a c b": others})
    rng = np.random.default_rng(0)
    assert swap_words("alone", rng) == "alone"
    assert swap_words("", rng) == swap_words(" ", rng).strip() == ""


def test_words_are_left_out() -> None:
    p = 0.3
    found = counts(lambda text, rng: delete_words(text, rng, p), "a b")
    none = p * p / 2  # all left out: one comes back, both alike
    assert_follows(found, {"a b": (1 - p) ** 2, "a": p * (1 - p) + none, "b": p * (1 - p) + none})
    rng = np.random.default_rng(0)
    assert delete_words("alone", rng, 1.0) == "alone"
    assert delete_words("", rng, 1.0) == ""
    assert delete_words("a b c", rng, 0.0) == "a b c"
    kept = [len(delete_words("w " * 20, rng, 0.1).split()) for _ in range(2000)]
    assert abs(np.mean(kept) - 18) < 0.15  # 4.5 standard errors


STRONG = CaptionAugment(clean=True, identity=0.1, synonym=0.4, swap=0.4, deletion=0.2, deletion_share=0.5)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60) | st.text("the dog's. ,", max_size=40), st.integers(0, 2**32))
def test_any_caption_goes_through(text: str, seed: int) -> None:
    for transform in (STRONG, CaptionAugment(stop_words=1.0, deletion=1.0, deletion_share=1.0), Plain()):
        changed = transform(text, np.random.default_rng(seed))
        assert changed == transform(text, np.random.default_rng(seed))
        assert changed or not clean_text(text)


def test_only_the_given_generator_is_used() -> None:
    random.seed(3)
    np.random.seed(3)
    before = random.getstate(), np.random.get_state()[1].tolist()
    STRONG("two dogs play in the big park", np.random.default_rng(0))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


def test_a_transform_travels_and_finds_its_own_list(tmp_path: Path) -> None:
    path = tmp_path / "mine.tsv"
    path.write_text("dog\thound\n")
    mine = CaptionAugment(stop_words=0.0, synonym=1.0, synonyms=str(path))
    mine.load()
    assert pickle.loads(pickle.dumps(mine))("a dog", np.random.default_rng(0)) == "a hound"
    with pytest.raises(ConfigError, match="no such file"):
        CaptionAugment(synonym=1.0, synonyms=str(tmp_path / "other.tsv"))
