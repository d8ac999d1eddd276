"""Text views: which caption is shown how, under which randomness; and through the configuration."""

from __future__ import annotations

import pickle
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from lgrep.config.compose import compose_config
from lgrep.data.randomness import TEXT_STREAM, keyed_generator
from lgrep.data.text import CaptionAugment, Plain, TextEntry, TextViews, Tokenizer, build_tokenizer, register_tokenizer
from lgrep.data.text import tokenizers as registry
from lgrep.errors import ConfigError
from lgrep.training.resolve import Resolved, resolve

CAPTIONS = [["a red dog", "two cats", "the blue bird"], ["the other picture"]]


class Numbers(Tokenizer):
    """The place of a caption among those of `CAPTIONS`."""

    name, context_length, vocab_size, pad_id, end_id = "numbers", 1, 9, 0, None

    def __init__(self, name: str, context_length: int | None) -> None:
        self.known = [text for texts in CAPTIONS for text in texts]

    def __call__(self, texts: Any) -> Any:
        return np.array([[self.known.index(text)] for text in texts], dtype=np.int64)


@pytest.fixture
def numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "TOKENIZERS", dict(registry.TOKENIZERS))
    register_tokenizer("numbers", Numbers)


def drawn(texts: TextViews, samples: int = 900) -> np.ndarray[Any, Any]:
    """Caption numbers [samples, T]."""
    return np.stack([texts.draw(CAPTIONS, keyed_generator(0, 0, a, TEXT_STREAM))[:, 0] for a in range(samples)])


@pytest.mark.usefixtures("numbers")
def test_views_share_a_drawn_caption_or_draw_their_own() -> None:
    views = [TextEntry(count=2), TextEntry(picture=1), TextEntry()]
    shared = drawn(TextViews("numbers", views=views, caption="one"))
    assert (shared[:, 0] == shared[:, 1]).all() and (shared[:, 0] == shared[:, 3]).all()
    assert chisquare(np.bincount(shared[:, 0], minlength=3)).pvalue > 1e-3
    own = drawn(TextViews("numbers", views=views, caption="each"))
    pairs = Counter(zip(own[:, 0].tolist(), own[:, 3].tolist(), strict=True))
    assert len(pairs) == 9 and chisquare(list(pairs.values())).pvalue > 1e-3
    first = drawn(TextViews("numbers", views=views, caption="first"), samples=9)
    assert (first == [0, 0, 3, 0]).all()
    assert (shared[:, 2] == 3).all() and (own[:, 2] == 3).all()
    assert TextViews("numbers", views=views).pictures == [0, 0, 1, 0]


STRONG = CaptionAugment(synonym=0.4, swap=0.4, deletion=0.2)
THREE = TextViews(
    views=[TextEntry(transform="weak"), TextEntry(transform="strong", count=2)],
    transforms={"weak": CaptionAugment(), "strong": STRONG},
)


def test_a_view_does_not_depend_on_the_others() -> None:
    alone = TextViews(
        views=[TextEntry(transform="plain"), TextEntry(transform="strong")],
        transforms={"plain": Plain(), "strong": STRONG},
    )
    captions = [["a small brown dog runs over the green field", "people in the big old town"]]
    differ = 0
    for anchor in range(50):
        three = THREE.draw(captions, keyed_generator(0, 0, anchor, TEXT_STREAM))
        assert np.array_equal(three[1], alone.draw(captions, keyed_generator(0, 0, anchor, TEXT_STREAM))[1])
        differ += not np.array_equal(three[1], three[2])
    assert differ > 40


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=50), min_size=1, max_size=4), st.integers(0, 2**40))
def test_any_captions_give_tokens_of_one_shape(texts: list[str], anchor: int) -> None:
    first, again = (THREE.draw([texts], keyed_generator(1, 2, anchor, TEXT_STREAM)) for _ in range(2))
    assert first.shape == (3, 77) and first.dtype == np.int64
    assert np.array_equal(first, again)
    assert (first[:, 0] == 49406).all() and (first.max(axis=1) == 49407).all()


def test_what_the_views_say_before_any_sample() -> None:
    with pytest.raises(ConfigError, match="no transform 'plane'.*did you mean 'plain'"):
        TextViews(views=[TextEntry(transform="plane")])
    with pytest.raises(ConfigError, match="text.views is empty"):
        TextViews(views=[])
    only = TextViews(views=[], features="embedding")
    only.load()
    assert only.pictures == [] and only.features == "embedding"
    copy = pickle.loads(pickle.dumps(THREE))
    captions = [["the dog on the mat"]]
    assert np.array_equal(copy.draw(captions, np.random.default_rng(1)), THREE.draw(captions, np.random.default_rng(1)))


def resolved(*overrides: str) -> Resolved:
    return resolve(*compose_config("train", [*overrides, "pairing=self"]))


def test_the_published_text_views() -> None:
    clip = resolved("text=clip").texts
    assert clip is not None and clip.pictures == [0] and clip.caption == "one"
    assert np.array_equal(clip.draw([["two dogs"]], np.random.default_rng(0)), build_tokenizer("clip")(["two dogs"]))
    rocket = resolved("text=clip_rocket", "text.transforms.weak.stop_words=1.0", "text.context_length=12")
    assert rocket.texts is not None and rocket.texts.pictures == [0, 0, 0]
    words = set(rocket.texts.draw([["THE&nbsp;dog"]], np.random.default_rng(0)).ravel().tolist())
    assert words == {49406, 1929, 49407, 0}  # one word: nothing to exchange or leave out, and synonyms come seldom
    strong = rocket.config.text["transforms"]["strong"]
    assert (strong["clean"], strong["stop_words"]) == (True, 1.0)  # follow the weak view's
    assert [strong[name] for name in ("identity", "synonym", "swap", "deletion")] == [0.0, 0.4, 0.4, 0.2]
    features = resolved("text=features").texts
    assert features is not None and features.pictures == [] and features.features == "embedding"
    assert resolved().texts is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["text=clip", "text.caption=two"], "text.caption"),
        (["text=clip", "text.tokenizer=clop"], "did you mean 'clip'"),
        (["text=clip_rocket", "text.transforms.strong.swap=-1"], "text.transforms.strong.swap"),
        (["text=clip_rocket", "text.transforms.weak.stop_words=1.2"], "text.transforms.weak.stop_words"),
        (["text=clip_rocket", "+text.transforms.weak.stopwords=1"], "stop_words"),
        (["text=clip", "text.transforms.plain._target_=lgrep.data.text.Plane"], "did you mean 'Plain'"),
        (["text=clip", "text.transforms=3"], "text.transforms: got 3"),
        (["text=clip", "text.views=[{transform: plain, picture: 1}]"], "caption of picture 1"),
        (["text=clip", "text.views=[{transform: plain, count: 0}]"], "count"),
        (["text=clip", "text.views=[]"], "text.views is empty"),
        (["text=clip", "+text.sampling=one"], "sampling"),
    ],
)
def test_wrong_text_settings_are_named(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolved(*overrides)
