"""Sets in published layouts become sets of the project's own format, alone, in part and together."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made import encoded
from prepare_data import prepare_data
from published import cc3m, cc12m, imagenet, lgssl, redcaps, yfcc15m

from lgrep.cli import run
from lgrep.config.compose import compose_config
from lgrep.config.sources import build_source, source_spec
from lgrep.data.preparing import prepare
from lgrep.data.shards import verify_set
from lgrep.data.table import Table, open_set


def tar(folder: Path) -> Path:
    folder.mkdir()
    with tarfile.open(folder / "00000.tar", "w") as archive:
        for number in range(9):
            for name, data in ((f"{number}.png", encoded(number)), (f"{number}.txt", f"text {number}".encode())):
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    return folder


def zipped(folder: Path) -> Path:
    folder.mkdir()
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(9):
            archive.writestr(f"class_{number % 2}/{number}.png", encoded(number))
    return folder


def parquet(folder: Path) -> Path:
    folder.mkdir()
    pictures = [{"bytes": encoded(number), "path": f"{number}.png"} for number in range(9)]
    pq.write_table(pa.table({"image": pictures, "caption": [f"text {n}" for n in range(9)]}), folder / "a.parquet")
    return folder


def source_of(*overrides: str) -> Table:
    table: Table = build_source(source_spec(compose_config("train", overrides)[0]["data"])).training()
    return table


def arguments(kind: str, folder: Path) -> list[str]:
    if kind in ("cc3m", "cc12m", "yfcc15m"):
        metadata = {"cc3m": "cc3m.npy", "cc12m": "cc12m.npy", "yfcc15m": "yfcc15m.pkl"}[kind]
        {"cc3m": cc3m, "cc12m": cc12m, "yfcc15m": yfcc15m}[kind](folder)
        return [f"data.metadata={folder}/{metadata}", f"data.root={folder}/pictures"]
    setting = {"webdataset": "shards", "zips": "archives", "parquet": "files"}.get(kind, "root")
    make = {
        "lgssl": lgssl,
        "redcaps": redcaps,
        "imagenet": imagenet,
        "webdataset": tar,
        "zips": zipped,
        "parquet": parquet,
    }
    root = make[kind](folder)
    return [f"data.{setting}={root / 'redcaps' if kind == 'lgssl' else root}"]


@pytest.mark.parametrize(
    "kind", ["cc3m", "cc12m", "yfcc15m", "lgssl", "redcaps", "imagenet", "webdataset", "zips", "parquet"]
)
def test_a_published_layout_becomes_a_set(kind: str, tmp_path: Path) -> None:
    table = source_of(f"data={kind}", *arguments(kind, tmp_path / "data"))
    prepare(table, tmp_path / "set", shard_rows=4)
    verify_set(tmp_path / "set")
    made = source_of("data=shards", f"data.root={tmp_path}/set", "data.verify=true")
    assert len(made) == len(table) > 3
    for row in range(len(table)):
        assert made.identity(row) == table.identity(row) and made.read(row) == table.read(row)
        assert made.texts(row) == table.texts(row) and made.caption_row(row) == table.caption_row(row)
    for name in ("label", "year", "subreddit"):
        assert made.has(name) == table.has(name)
        assert not table.has(name) or np.array_equal(made.column(name), table.column(name))


def test_a_part_of_redcaps(tmp_path: Path) -> None:
    root = redcaps(tmp_path / "data")
    whole = source_of("data=redcaps", f"data.root={root}")
    years, names = whole.column("year"), whole.column("subreddit")
    year, name = int(years[0]), str(names[-1])
    assert 0 < (years == year).sum() < len(whole) and 0 < (names == name).sum() < len(whole)
    for override, expected in (
        (f"data.where.year={year}", years == year),
        (f"data.where.subreddit=[{name}]", names == name),
        (f"data.where.id.matches='^{name}/'", names == name),
    ):
        part = source_of("data=redcaps", f"data.root={root}", override)
        ids = [whole.identity(int(row)) for row in np.flatnonzero(expected)]
        assert [part.identity(row) for row in range(len(part))] == ids


def test_makers_write_what_sources_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(4):
        (tmp_path / f"{number:09d}.jpg").write_bytes(encoded(number))
    (tmp_path / "list.tsv").write_text("".join(f"caption {n}\thttps://x.example/{n}\n" for n in range(5)))
    given = ["make=cc3m", f"make.tsv={tmp_path}/list.tsv", f"make.root={tmp_path}", f"out={tmp_path}/cc3m.parquet"]
    assert run("prepare", "", prepare_data, given) == 0
    assert "4" in capsys.readouterr().out
    table = source_of("data=cc3m", f"data.metadata={tmp_path}/cc3m.parquet", f"data.root={tmp_path}")
    assert [table.caption(row) for row in range(len(table))] == [f"caption {n}" for n in range(4)]
    assert run("prepare", "", prepare_data, [*given, "data=emoji"]) == 2
    assert "both data and make are chosen" in capsys.readouterr().err
    assert run("prepare", "", prepare_data, [*given, "make.fils=x"]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_three_sets_as_one(tmp_path: Path) -> None:
    settings = []
    for kind in ("cc3m", "cc12m", "yfcc15m"):
        settings += [a.replace("data.", f"data.parts.{kind}.", 1) for a in arguments(kind, tmp_path / kind)]
    table = source_of("data=cc3m_cc12m_yfcc15m", *settings)
    assert len(table) == 12 + 12 + 8
    prepare(table, tmp_path / "set", shard_rows=10)
    made = open_set(tmp_path / "set")
    assert [made.texts(row) for row in range(32)] == [table.texts(row) for row in range(32)]
    assert [made.identity(row).split("/")[0] for row in (0, 12, 24)] == ["cc3m", "cc12m", "yfcc15m"]
    merged = source_of("data=cc3m_cc12m_yfcc15m", *settings, "data.same_text=merge", "data.parts.cc12m.limit=6")
    assert len(merged) == 12 + 6 + 8
    texts = [merged.caption(row) for row in range(len(merged))]
    for text in {text for text in texts if text}:
        assert len({merged.caption_row(row) for row, other in enumerate(texts) if other == text}) == 1
