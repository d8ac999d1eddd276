"""Mining end to end, on sets whose neighbours are computed by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lgrep.config.compose import compose_config, group_choices, parse
from lgrep.data.neighbours import open_neighbours
from lgrep.data.pairings import NeighbourPairing
from lgrep.data.table import Table
from lgrep.errors import ConfigError, DataError
from lgrep.mining import Miner, mine
from lgrep.mining.embed import Embeddings
from lgrep.mining.encoders import EncoderOptions, build_encoder
from lgrep.mining.scope import Scope
from lgrep.mining.settings import MineConfig
from mining.made_sets import brute_force, captioned_set, clustered

CAPTIONS, DIM = 60, 12
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    found = clustered(CAPTIONS, DIM, clusters=5)
    found[7] = 0  # a caption without a vector
    return found


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, vectors: np.ndarray) -> Table:
    texts = [f"caption {number}" for number in range(CAPTIONS)]
    texts[3] = texts[2]  # the same text twice
    where = [f"sub_{number % 3}" for number in range(CAPTIONS)]
    year = [str(2015 + number % 2) for number in range(CAPTIONS)]
    return captioned_set(tmp_path_factory.mktemp("set"), texts, vectors, subreddit=where, year=year)


def mined(table: Table, folder: Path, **settings: Any) -> tuple[np.ndarray, np.ndarray]:
    settings = {"k": 4, "dtype": "float32", **settings}
    mine(table, folder / "out", Miner(**settings), folder / "cache")
    found = open_neighbours(folder / "out")
    found.check()
    return np.asarray(found.indices), np.asarray(found.similarities)


def as_expected(found: tuple[np.ndarray, np.ndarray], expected: tuple[np.ndarray, np.ndarray]) -> None:
    np.testing.assert_allclose(found[1], np.where(expected[0] >= 0, expected[1], -np.inf), atol=2e-6)
    assert (found[0] == expected[0]).mean() > 0.99  # ties have no order


def without_seven(vectors: np.ndarray, k: int, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Brute force in which row 7, which has no vector, takes no part."""
    rows = np.flatnonzero(np.arange(len(vectors)) != 7)
    near, best = brute_force(vectors[rows], k, labels[rows])
    indices, products = np.full((len(vectors), k), -1), np.full((len(vectors), k), -np.inf)
    indices[rows], products[rows] = np.where(near >= 0, rows[near], -1), best
    return indices, products


def labels_of_texts() -> np.ndarray:
    labels = np.arange(CAPTIONS)
    labels[3] = 2
    return labels


def test_captions_of_equal_text_are_no_neighbours(table: Table, vectors: np.ndarray, tmp_path: Path) -> None:
    as_expected(mined(table, tmp_path), without_seven(vectors, 4, labels_of_texts()))
    about = open_neighbours(tmp_path / "out").about
    assert (about.unit, about.rows, about.k, about.recall) == ("caption", CAPTIONS, 4, 1.0)
    assert about.content_hash == table.content_hash and about.encoder["name"] == "features/embedding"
    assert not list((tmp_path / "cache").glob("*/search-*/"))  # what was unfinished is gone


@pytest.mark.parametrize("search", ["ivf_flat", "ivf_pq", "hnsw"])
def test_approximate_searches_record_their_recall(tmp_path: Path, search: str) -> None:
    rows = 700
    vectors = clustered(rows, 16)
    table = captioned_set(tmp_path / "set", [f"t{number}" for number in range(rows)], vectors, per_caption=1)
    indices, similarities = mined(table, tmp_path, search=search, sample=100)
    expected, best = brute_force(vectors, 4)
    about = open_neighbours(tmp_path / "out").about
    truth = np.mean([len(set(a) & set(b)) / 4 for a, b in zip(indices, expected, strict=True)])
    assert about.recall == pytest.approx(truth, abs=0.03) and truth > 0.95
    assert about.search["recall_sample"] == 100 and about.search["engines"] == {search: 1}
    hit = indices == expected
    np.testing.assert_allclose(similarities[hit], best[hit], atol=1e-5)  # PQ's candidates are compared exactly


def test_pictures_by_their_captions(table: Table, vectors: np.ndarray, tmp_path: Path) -> None:
    """Siblings are excluded unless the published behaviour is asked for."""
    group = np.repeat(np.arange(CAPTIONS), 2)
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    indices, products = mined(table, tmp_path / "a", unit="picture")
    assert len(indices) == 2 * CAPTIONS and open_neighbours(tmp_path / "a" / "out").about.unit == "picture"
    assert (group[indices] != group[:, None])[indices >= 0].all()
    assert (indices[14:16] == -1).all()  # of the caption without a vector
    indices, products = mined(table, tmp_path / "b", reference_behaviour=True, k=1)
    some = np.flatnonzero(group != 7)
    assert np.allclose(products[some, 0], 1, atol=1e-6)
    assert (indices[some, 0] != some).all()


def test_near_duplicates_above_the_limit_are_left_out(table: Table, tmp_path: Path) -> None:
    _, products = mined(table, tmp_path, max_similarity=0.6)
    assert products.max() <= 0.6 and np.isfinite(products[:, 0]).sum() == CAPTIONS - 1


def test_scopes(table: Table, vectors: np.ndarray, tmp_path: Path) -> None:
    number = np.arange(CAPTIONS)
    for name, scope, part in (
        ("columns", Scope(columns=["subreddit", "year"]), number % 6),
        ("matches", Scope(matches="^sub_(.)", matched="subreddit"), number % 3),
        ("ids", Scope(matches=r"^p\d*(\d)_"), number % 10),
    ):
        found = mined(table, tmp_path / name, scope=scope, k=3)
        for value in range(part.max() + 1):
            inside = np.flatnonzero((part == value) & (number != 7))
            near, best = brute_force(vectors[inside], 3, labels_of_texts()[inside])
            expected = np.where(near >= 0, inside[near], -1), best
            as_expected((found[0][inside], found[1][inside]), expected)
    indices, _ = mined(table, tmp_path / "random", scope=Scope(random=4), k=3)
    parts = [set(row[row >= 0]) for row in indices]
    assert all(row not in parts[row] for row in range(CAPTIONS))
    with pytest.raises(DataError, match=r"scope\.columns=subredit.*did you mean 'subreddit'"):
        mined(table, tmp_path / "x", scope=Scope(columns=["subredit"]))
    with pytest.raises(ConfigError, match=r"scope\.matches"):
        mined(table, tmp_path / "y", scope=Scope(matches="(?=a)"))


def test_a_scope_searched_through_lists(tmp_path: Path) -> None:
    rows = 900
    vectors, part = clustered(rows, 16), np.arange(rows) % 2
    table = captioned_set(
        tmp_path / "set", [f"t{number}" for number in range(rows)], vectors, 1, side=[str(value) for value in part]
    )
    indices, _ = mined(table, tmp_path, search="ivf_flat", sample=100, scope=Scope(columns=["side"]))
    assert (part[indices] == part[:, None])[indices >= 0].all()
    for value in (0, 1):
        inside = np.flatnonzero(part == value)
        expected = inside[brute_force(vectors[inside], 4)[0]]
        assert (indices[inside] == expected).mean() > 0.97
    assert open_neighbours(tmp_path / "out").about.search["engines"] == {"ivf_flat": 2}


def test_hubs_and_mutual_neighbours(table: Table, tmp_path: Path) -> None:
    plain, _ = mined(table, tmp_path / "plain")
    limited, _ = mined(table, tmp_path / "hubs", max_in_degree=4)
    assert np.bincount(plain[plain >= 0]).max() > 4 >= np.bincount(limited[limited >= 0]).max()
    mutual, _ = mined(table, tmp_path / "mutual", mutual=True)
    for row in range(CAPTIONS):
        listed = {int(other) for other in plain[row] if other >= 0 and row in plain[other]}
        assert {int(other) for other in mutual[row] if other >= 0} == listed


def test_the_same_table_is_not_made_twice_and_another_not_overwritten(table: Table, tmp_path: Path) -> None:
    mined(table, tmp_path)
    before = (tmp_path / "out" / "neighbours.arrow").stat().st_mtime_ns
    mined(table, tmp_path, batch_size=3, processes=1)
    assert (tmp_path / "out" / "neighbours.arrow").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="holds another neighbour table"):
        mined(table, tmp_path, k=3)
    with pytest.raises(ConfigError, match="holds another neighbour table"):
        mined(table.select(np.arange(20)), tmp_path)


class _Counting:
    """Stands in for an encoder; counts what it is asked for."""

    name, of, dim = "counting", "captions", DIM

    def __init__(self, vectors: np.ndarray, version: int = 0) -> None:
        self.vectors, self.settings, self.asked = vectors, {"version": version}, []

    def encode(self, rows: range) -> np.ndarray:
        self.asked += list(rows)
        return self.vectors[rows]


def test_vectors_are_used_again_while_set_encoder_and_settings_are_the_same(
    table: Table, vectors: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = _Counting(vectors)
    monkeypatch.setattr("lgrep.mining.embed.build_encoder", lambda *_: encoder)
    for name, settings, expected in (
        ("first", {}, CAPTIONS),
        ("again", {"k": 2}, 0),
        ("other dtype", {"dtype": "float16"}, CAPTIONS),
    ):
        encoder.asked = []
        mine(table, tmp_path / name, Miner(**{"k": 4, "dtype": "float32", **settings}), tmp_path / "cache")
        assert len(encoder.asked) == expected, name
    encoder.asked, encoder.settings = [], {"version": 1}
    mine(table, tmp_path / "other weights", Miner(k=4, dtype="float32"), tmp_path / "cache")
    assert len(encoder.asked) == CAPTIONS
    encoder.asked = []
    mine(table.select(np.arange(40)), tmp_path / "part", Miner(k=4, dtype="float32"), tmp_path / "cache")
    assert len(encoder.asked) == 20


def test_a_damaged_vector_is_noticed_and_made_again(
    table: Table, vectors: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mined(table, tmp_path, range_rows=10)
    path = next((tmp_path / "cache").glob("*/vectors.bin"))
    data = bytearray(path.read_bytes())
    data[500] ^= 1
    path.write_bytes(data)
    mine(table, tmp_path / "second", Miner(k=4, dtype="float32", range_rows=10), tmp_path / "cache")
    assert "1 of 6 parts are damaged" in capsys.readouterr().err
    first, second = (open_neighbours(tmp_path / name) for name in ("out", "second"))
    assert np.array_equal(first.indices, second.indices)


def test_values_that_are_not_finite_are_refused(
    table: Table, vectors: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = vectors.copy()
    broken[31, 2] = np.nan
    monkeypatch.setattr("lgrep.mining.embed.build_encoder", lambda *_: _Counting(broken))
    with pytest.raises(DataError, match=r"NaN or infinite values for 1 captions, first 31"):
        mined(table, tmp_path)


def test_visual_neighbours_survive_a_broken_picture(tmp_path: Path) -> None:
    table = captioned_set(tmp_path / "set", [f"t{number}" for number in range(8)], per_caption=2)
    store, row = table.store, 5
    read = store.read
    store.read = lambda number: b"broken" if number == row else read(number)  # type: ignore[method-assign]
    indices, _ = mined(table, tmp_path, encoder="picture/pixels", k=3)
    assert len(indices) == 16 and (indices[row] == -1).all()
    assert row not in indices and (indices[np.arange(16) != row, 0] >= 0).all()
    captions, _ = mined(table, tmp_path / "captions", encoder="picture/pixels", unit="caption", k=3)
    assert len(captions) == 8 and (captions >= 0).all()


def test_the_vector_of_a_caption_by_a_visual_encoder_is_the_mean_of_its_pictures(tmp_path: Path) -> None:
    table = captioned_set(tmp_path / "set", ["a", "b", "c"], per_caption=3)
    miner = Miner(encoder="picture/pixels", unit="caption", dtype="float32", range_rows=2)
    embeddings = Embeddings(table, miner, tmp_path / "cache")
    embeddings.make(progress=False)
    features = build_encoder("picture/pixels", table, EncoderOptions()).encode(range(9))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    means = features.reshape(3, 3, -1).mean(1)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(embeddings.units(of_captions=True).take(np.arange(3)), means, atol=1e-6)


def test_settings_that_cannot_be(table: Table, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"features/other.*did you mean|features/other.*allowed"):
        mined(table, tmp_path, encoder="features/other")
    with pytest.raises(ConfigError, match=r"sentence_transformer: did you mean 'sentence_transformers'"):
        mined(table, tmp_path, encoder="sentence_transformer")
    with pytest.raises(ConfigError, match=r"device=quantum.*miner\.device=auto"):
        mined(table, tmp_path, device="quantum")
    with pytest.raises(ValueError, match="reference_behaviour mines pictures"):
        Miner(reference_behaviour=True, unit="caption")


def test_the_command_line(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "mine_neighbours.py"
    run = [sys.executable, str(script), "data=emoji", f"out={tmp_path}/n", f"cache={tmp_path}/c", "miner.k=3"]
    environment = {**os.environ, "TERM": "dumb"}
    done = subprocess.run(run, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert f"train with pairing=neighbour pairing.table={tmp_path}/n" in done.stdout and "exact" in done.stdout
    about = json.loads((tmp_path / "n" / "about.json").read_text())
    assert about["k"] == 3 and about["provenance"]["command"][1] == "data=emoji"


def test_a_wrong_setting_is_named() -> None:
    with pytest.raises(ConfigError, match="did you mean 'search'"):
        compose_config("mine", ["miner.searcher=flat"])
    with pytest.raises(ConfigError, match=r"miner\.search: got 'flatt'.*'ivf_flat'"):
        parse(MineConfig, compose_config("mine", ["miner.search=flatt"])[0])


@pytest.mark.parametrize("name", group_choices("miner"))
def test_every_choice_of_the_group_is_valid(name: str) -> None:
    assert parse(MineConfig, compose_config("mine", [f"miner={name}"])[0]).miner.k >= 1


def test_training_mines_a_missing_table_itself(table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"mine_neighbours\.py .*pairing\.mine=true"):
        NeighbourPairing().anchors(table)
    pairing = NeighbourPairing(mine=True)
    assert len(pairing.anchors(table)) == 2 * (CAPTIONS - 1)  # all but those of the caption without a vector
    found = open_neighbours(tmp_path / "neighbours" / "made")
    group, other = (table.caption_row(row) for row in pairing.draw(table, 0, np.random.default_rng(0)))
    assert found.indices[group, 0] == other
    changed = table.select(np.arange(30))
    with pytest.raises(DataError, match="mined for another set"):
        NeighbourPairing(mine=True).anchors(changed)
