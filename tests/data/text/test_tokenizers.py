"""Tokenisers against open_clip's and transformers' own."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgrep.data.text import Tokenizer, build_tokenizer, register_tokenizer
from lgrep.data.text import clip as clip_module
from lgrep.data.text import tokenizers as registry
from lgrep.data.text.cleaning import clean_text
from lgrep.errors import ConfigError, DataError

reference = pytest.importorskip("open_clip.tokenizer")
OPEN_CLIP = reference.SimpleTokenizer()
TEXTS = st.text(max_size=60) | st.text("a'b &;#<>😀é\u0301\t\n1.ſİ", max_size=60)

ODD = {
    "empty": "",
    "blank": " \t\n ",
    "contractions": "don't CAN'T I'll you've 'sup",
    "entities": "&amp;amp; &lt;b&gt; &nbsp;&#128512; &#xD800;",
    "emoji": "😀😃 👨‍👩‍👧 🇩🇪 ☕️",
    "broken encoding": "ÃƒÂ©tÃ© â€œquotedâ€\x9d",
    "special tokens": "a <start_of_text> b <end_of_text> <END_OF_TEXT> <ſtart_of_text>",
    "case": "İSTANBUL ǅ ẞ ſ ﬁ ½ Ⅷ ²",
    "scripts": "漢字かな 한국어 ไทย عربى हिन्दी",
    "lone surrogate": "a \ud800 b",
    "combining": "e\u0301 a\u030a",
    "escapes": "\x1b[31mred\x1b[0m \x00\x01\x7f \u2028line\u2029",
    "one long word": "qwertzuiop" * 300,
    "many words": "a photo of " * 400,
    "punctuation": "!?...--" * 200,
    "exactly full": "a " * 75,
    "one too many": "a " * 76,
    "one to spare": "a " * 74,
}


@pytest.mark.parametrize("text", ODD.values(), ids=ODD.keys())
def test_odd_texts_equal_open_clip(text: str) -> None:
    assert np.array_equal(build_tokenizer("clip")([text]), OPEN_CLIP([text]).numpy())


@settings(max_examples=200, deadline=None)
@given(st.lists(TEXTS, max_size=3), st.integers(3, 90))
def test_any_text_at_any_length_equals_open_clip(texts: list[str], length: int) -> None:
    ours = build_tokenizer("clip", length)(texts)
    assert ours.dtype == np.int64
    assert ours.shape == (len(texts), length)
    assert np.array_equal(ours, OPEN_CLIP(texts, context_length=length).numpy())


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(max_codepoint=127), max_size=80))
def test_the_short_cut_of_cleaning_changes_nothing(text: str) -> None:
    assert clean_text(text) == reference._clean_lower(text)


def test_forgetting_words_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_module, "WORDS_KEPT", 2)
    pairs = clip_module.BytePairs()
    for _ in range(2):
        assert pairs.encode("a photo of a photo of two dogs", 75) == OPEN_CLIP.encode("a photo of a photo of two dogs")
        assert len(pairs._kept) <= 2


def test_a_huge_word_takes_no_longer_than_its_first_bytes() -> None:
    rng = np.random.default_rng(0)
    letters = "".join(rng.choice(list("abcdefgh"), 200_000))
    tokens = build_tokenizer("clip")([letters])[0]
    assert tokens[-1] == 49407
    assert np.array_equal(tokens, OPEN_CLIP([letters[:2000]]).numpy()[0])


def test_what_text_towers_are_built_from() -> None:
    tokenizer = build_tokenizer("clip:32")
    assert (tokenizer.name, tokenizer.context_length, tokenizer.vocab_size) == ("clip:32", 32, 49408)
    tokens = tokenizer(["two dogs"])[0]
    assert (tokens == tokenizer.end_id).sum() == 1
    assert tokens.max() == tokenizer.end_id  # CLIP reads its feature at the largest id
    assert set(tokens[tokens.argmax() + 1 :]) == {tokenizer.pad_id}


@pytest.mark.parametrize(
    ("name", "length", "message"),
    [
        ("clop", None, "did you mean 'clip'"),
        ("clip:long", None, "clip:32"),
        ("clip:32", 77, "context_length=null"),
        ("clip", 2, "at least 3"),
        ("hf:", None, "hf:bert-base-uncased"),
        ("open_clip:", None, "open_clip:ViT-B-32"),
        ("open_clip:ViT-B-23", None, "did you mean 'ViT-B-32'"),
        ("", None, "Allowed: clip"),
    ],
)
def test_wrong_names_say_what_to_type(name: str, length: int | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_tokenizer(name, length)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    for name in ("clip", "open_clip:ViT-B-32", "hf:x"):
        with pytest.raises(ConfigError, match=r"pip install 'lgrep\[(clip|text)\]'"):
            build_tokenizer(name)


def test_open_clips_configured_tokenizer() -> None:
    tokenizer = build_tokenizer("open_clip:ViT-B-32")
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert np.array_equal(copy(["two dogs", ""]), build_tokenizer("clip")(["two dogs", ""]))
    facts = ("context_length", "vocab_size", "pad_id", "end_id")
    assert all(getattr(copy, fact) == getattr(build_tokenizer("clip"), fact) for fact in facts)
    assert build_tokenizer("open_clip:ViT-B-32", 16)(["two dogs"]).shape == (1, 16)
    assert copy([]).shape == (0, 77)


def saved_tokenizer(folder: Path, pad: bool) -> Any:
    """A BERT-like tokeniser of few words in a folder, and itself."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "two", "dogs", "cats"]
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        **({"pad_token": "[PAD]"} if pad else {}),
    }
    whole = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **special)
    whole.save_pretrained(folder)
    return whole


@pytest.mark.parametrize("pad", [True, False])
def test_a_saved_tokenizer_of_transformers(tmp_path: Path, pad: bool) -> None:
    saved_tokenizer(tmp_path, pad)
    tokenizer = build_tokenizer(f"hf:{tmp_path}", 5)
    fill = 0 if pad else 3
    assert tokenizer(["two dogs", "two dogs and two cats", ""]).tolist() == [
        [2, 4, 5, 3, fill],
        [2, 4, 5, 1, 3],
        [2, 3, fill, fill, fill],
    ]
    assert (tokenizer.vocab_size, tokenizer.pad_id, tokenizer.end_id) == (7, fill, 3)
    assert pickle.loads(pickle.dumps(tokenizer))._tool is None  # a copy opens its own
    with pytest.raises(ConfigError, match="text.context_length=77"):
        _ = build_tokenizer(f"hf:{tmp_path}").context_length


def test_a_tokenizer_that_is_not_there_is_bad_data(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="cannot be loaded.*text.tokenizer=clip"):
        build_tokenizer(f"hf:{tmp_path}/empty", 7).load()


class Letters(Tokenizer):
    vocab_size, pad_id, end_id = 256, 0, None

    def __init__(self, name: str, context_length: int | None) -> None:
        self.name, self.context_length = name, context_length or 4

    def __call__(self, texts: Any) -> Any:
        return np.array([[*text.encode()[:4].ljust(4, b"\0")] for text in texts], dtype=np.int64)


def test_a_users_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "TOKENIZERS", dict(registry.TOKENIZERS))
    register_tokenizer("letters", Letters)
    register_tokenizer("letters", Letters)  # importing a module again does no harm
    assert build_tokenizer("letters:small")(["ab"]).tolist() == [[97, 98, 0, 0]]
    with pytest.raises(ConfigError, match="already"):
        register_tokenizer("clip", Letters)
