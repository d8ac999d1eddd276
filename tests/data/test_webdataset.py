"""Tar shards in the WebDataset layout: what is indexed, what is left out, what happens to damaged shards."""

from __future__ import annotations

import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from archives import write_tar
from made import encoded

from lgrep.data.containers import index
from lgrep.data.containers.patterns import expand_braces, list_files
from lgrep.data.pictures import decode
from lgrep.data.sources import WebDataset
from lgrep.errors import DataError

Files = list[tuple[str, bytes]]


def sample(number: int, caption: str | None = None) -> Files:
    text = f"caption {number}" if caption is None else caption
    return [(f"{number:09d}.jpg", encoded(number, "JPEG")), (f"{number:09d}.txt", text.encode())]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    for shard in range(3):
        write_tar(tmp_path / "cc" / f"{shard:05d}.tar", [file for i in range(5) for file in sample(10 * shard + i)])
    return tmp_path / "cc"


@pytest.mark.parametrize("given", ["{root}", "{root}/*.tar", "{root}/{{00000..00002}}.tar", "list"])
def test_every_sample_is_a_row(shards: Path, given: str) -> None:
    files = tuple(str(path) for path in sorted(shards.glob("*.tar")))
    table = WebDataset(files if given == "list" else given.format(root=shards)).training()
    assert (len(table), table.num_groups) == (15, 15)
    for row in range(15):
        number = 10 * (row // 5) + row % 5
        assert table.identity(row) == f"{row // 5:05d}.tar/{number:09d}.jpg"
        assert table.read(row) == encoded(number, "JPEG")
        assert table.caption(row) == f"caption {number}"
    assert table.store.shard.tolist() == [0] * 5 + [1] * 5 + [2] * 5  # type: ignore[attr-defined]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_odd_names(tmp_path: Path, format: int) -> None:
    long = "/".join(["a_folder_of_sixteen"] * 8) + "/picture"
    names = ["日本.first", "dir.with.dots/x", "../../etc/passwd", "/absolute"] + [long] * (
        format != tarfile.USTAR_FORMAT
    )
    files = [file for name in names for file in ((f"{name}.PNG", encoded(len(name))), (f"{name}.txt", name.encode()))]
    files[0], files[1] = ("日本.png", files[0][1]), ("日本.txt", files[1][1])
    table = WebDataset(str(write_tar(tmp_path / "x.tar", files, format))).training()
    assert [table.identity(row) for row in range(len(table))] == [f"x.tar/{name}" for name, _ in files[::2]]
    assert [table.caption(row) for row in range(len(table))] == names
    assert [table.read(row) for row in range(len(table))] == [data for _, data in files[::2]]
    assert not (tmp_path / "etc").exists()


def test_the_first_dot_of_the_base_name_ends_the_key(tmp_path: Path) -> None:
    files = [
        ("a/1.input.jpg", encoded(1)),
        ("a/1.jpg", encoded(2)),
        ("a/1.txt", b"one"),
        ("a/2.INPUT.JPG", encoded(3)),
        ("a/2.json", json.dumps({"caption": "two", "prompt": "zwei"}).encode()),
        ("a/.hidden", b"x"),
        ("a/README", b"x"),
    ]
    path = str(write_tar(tmp_path / "x.tar", files))
    table = WebDataset(path, pictures=("input.jpg", "jpg")).training()
    assert [table.read(row) for row in range(2)] == [encoded(1), encoded(3)]
    assert [table.caption(row) for row in range(2)] == ["one", "two"]
    other = WebDataset(path, pictures=("input.jpg",), captions=("json", "txt"), caption_field="prompt").training()
    assert [other.caption(row) for row in range(2)] == ["one", "zwei"]


def test_equal_captions_are_siblings_on_request(tmp_path: Path) -> None:
    texts = ["a cat", "a dog", "a cat", "a bird", "a dog", "a cat"]
    write_tar(tmp_path / "0.tar", [file for i in range(3) for file in sample(i, texts[i])])
    write_tar(tmp_path / "1.tar", [file for i in range(3, 6) for file in sample(i, texts[i])])
    assert WebDataset(str(tmp_path)).training().num_groups == 6
    table = WebDataset(str(tmp_path), group="caption").training()
    assert [len(table.members(group)) for group in range(table.num_groups)] == [3, 2, 1]
    assert [table.caption(row) for row in range(6)] == ["a cat"] * 3 + ["a dog"] * 2 + ["a bird"]
    order = [0, 2, 5, 1, 4, 3]
    assert [table.read(row) for row in range(6)] == [encoded(i, "JPEG") for i in order]


def test_members_that_miss_are_named_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [file for i in range(30) for file in sample(i)]
    files += [("p.jpg", encoded(50)), ("t.txt", b"no picture"), ("e.jpg", encoded(51)), ("e.txt", b" \n")]
    files += [("000000003.jpg", encoded(99))]  # a key that occurs twice
    source = WebDataset(str(write_tar(tmp_path / "x.tar", files)), max_left_out=0.2)
    table = source.training()
    assert len(table) == 30 and table.read(3) == encoded(3, "JPEG")
    said = capsys.readouterr().err
    assert "4 of 34 pictures in data.shards are left out" in said
    reasons = dict(source.left_out)
    assert "no picture, only txt" in reasons["x.tar/t"]
    assert "no caption" in reasons["x.tar/p.jpg"] and "is empty" in reasons["x.tar/e.jpg"]
    assert "occurs twice" in reasons["x.tar/000000003.jpg"]
    with pytest.raises(DataError, match=r"4 of 34 pictures cannot be used, more than data.max_left_out=0.1: .*x.tar"):
        WebDataset(str(tmp_path)).training()
    assert len(WebDataset(str(tmp_path), captions=(), max_left_out=0.2).training()) == 32


def test_labels_make_probes_and_are_kept_out_of_training(tmp_path: Path) -> None:
    names = ["cat", "dog", "bird"]
    files = [f for i in range(90) for f in ((f"{i}.jpg", encoded(i)), (f"{i}.cls", names[i % 3].encode()))]
    source = WebDataset(str(write_tar(tmp_path / "x.tar", files)), labels="cls")
    training, probe = source.training(), source.probe()
    assert probe is not None and probe.class_names == ["bird", "cat", "dog"]
    assert len(training) + len(probe.queries) == 90 and 0 < len(probe.queries) < 30
    for table in (training, probe.queries):
        for row in range(len(table)):
            number = int(table.identity(row).removeprefix("x.tar/").removesuffix(".jpg"))
            assert probe.class_names[table.column("label")[row]] == names[number % 3]
    numbered = [(name, data if name.endswith("jpg") else b"7") for name, data in files]
    other = WebDataset(str(write_tar(tmp_path / "y.tar", numbered)), labels="cls", probe_share=0)
    assert set(other.training().column("label")) == {7} and other.probe() is None


def test_the_index_is_used_again_until_a_shard_changes(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = WebDataset(str(shards)).training()
    kept = sorted(path.name for path in (shards / ".lgrep-index").iterdir() if path.is_dir())
    assert len(kept) == 1

    def refuse(*_: object) -> None:
        raise AssertionError("scanned again")

    with monkeypatch.context() as patch:
        patch.setattr(index, "_scan_all", refuse)
        again = WebDataset(str(shards)).training()
        assert again.content_hash == first.content_hash
        with pytest.raises(AssertionError):
            WebDataset(str(shards), captions=("json",)).training()
    write_tar(shards / "00001.tar", sample(77))
    assert len(WebDataset(str(shards)).training()) == 11
    folder = shards / ".lgrep-index" / kept[0]
    for file in ("pictures.arrow", "index.json"):
        (folder / file).write_bytes((folder / file).read_bytes()[:100])
        assert len(WebDataset(str(shards)).training()) == 11
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == kept


def test_several_processes_make_the_same_index(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cut(shards / "00001.tar", 9000)
    tables = []
    for limit in (2**28, 0):
        monkeypatch.setattr(index, "_SERIAL", limit)
        tables.append(WebDataset(str(shards), index=str(tmp_path / str(limit)), max_left_out=0.5).training())
    assert tables[0].content_hash == tables[1].content_hash and len(tables[0]) > 10
    assert capsys.readouterr().err.count("note: 00001.tar: ") == 2
    with tarfile.open(shards / "00002.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("x.jpg"))
    with pytest.raises(DataError, match="is compressed"):
        WebDataset(str(shards)).training()


def test_the_index_goes_elsewhere_where_shards_cannot_be_written(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(WebDataset(str(shards), index=str(tmp_path / "cache")).training()) == 15
    assert not (shards / ".lgrep-index").exists() and list((tmp_path / "cache").iterdir())
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setenv("LGREP_CACHE", str(tmp_path / "user"))
    assert len(WebDataset(str(shards)).training()) == 15
    assert not (shards / ".lgrep-index").exists() and list((tmp_path / "user" / "indices").iterdir())


def test_a_table_of_shards_travels_as_names_of_files(shards: Path) -> None:
    table = WebDataset(str(shards)).training()
    data = pickle.dumps(table)
    assert b"caption 1" not in data and len(data) < 3000
    copy = pickle.loads(data)
    assert [copy.read(row) for row in range(15)] == [table.read(row) for row in range(15)]
    assert [list(copy.members(group)) for group in range(15)] == [[row] for row in range(15)]


def cut(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])


def flip_header(path: Path, number: int) -> None:
    """Break the header of a member."""
    with tarfile.open(path) as archive:
        offset = archive.getmembers()[number].offset
    data = bytearray(path.read_bytes())
    data[offset : offset + 20] = b"\xff" * 20
    path.write_bytes(data)


def test_a_tar_that_is_cut_short_gives_what_is_whole(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with tarfile.open(shards / "00001.tar") as archive:
        third = archive.getmembers()[4]
    cut(shards / "00001.tar", third.offset_data + 100)
    with pytest.raises(DataError, match=r"3 of 15 pictures cannot be used, more than data.max_left_out=0.1: 00001.tar"):
        WebDataset(str(shards)).training()
    table = WebDataset(str(shards), max_left_out=0.25).training()
    assert len(table) == 12
    assert "00001.tar: is cut short within 000000012.jpg; what comes before is used" in capsys.readouterr().err
    assert [decode(table.read(row)).size for row in range(12)] == [(40, 36)] * 12


def test_a_cut_between_members_is_noticed(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with tarfile.open(shards / "00002.tar") as archive:
        end = archive.getmembers()[8].offset
    cut(shards / "00002.tar", end)
    assert len(WebDataset(str(shards)).training()) == 14
    assert "00002.tar: has no end mark and is perhaps cut short" in capsys.readouterr().err


def test_a_broken_header_counts_what_lies_behind(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip_header(shards / "00000.tar", 4)
    table = WebDataset(str(shards), max_left_out=0.5).training()
    assert len(table) == 12
    said = capsys.readouterr().err
    assert "00000.tar: is damaged at byte" in said and "are left out" in said


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"x" * 5000, bytes(10240)])
def test_what_is_no_tar_counts_as_lost(shards: Path, content: bytes) -> None:
    (shards / "00001.tar").write_bytes(content)
    table = WebDataset(str(shards), max_left_out=0.4).training()
    assert len(table) == 10
    (shards / "alone").mkdir()
    (shards / "alone" / "x.tar").write_bytes(content)
    with pytest.raises(DataError, match="holds no picture"):
        WebDataset(str(shards / "alone")).training()


def test_random_damage_is_survived(shards: Path) -> None:
    whole = (shards / "00000.tar").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        data = bytearray(whole)
        for place in rng.integers(0, len(data) // 512, 3) * 512 + rng.integers(0, 512, 3):
            data[place] = rng.integers(256)
        (shards / "00000.tar").write_bytes(data)
        table = WebDataset(str(shards), max_left_out=1).training()
        assert 10 <= len(table) <= 15
        assert all(table.read(row) and table.caption(row) for row in range(len(table)))


def test_compressed_tars_are_refused(tmp_path: Path) -> None:
    for mode in ("gz", "bz2", "xz"):
        with tarfile.open(tmp_path / f"{mode}.tar", f"w:{mode}") as archive:
            archive.addfile(tarfile.TarInfo("x.jpg"))
        with pytest.raises(DataError, match=r"is compressed \((gzip|bzip2|xz)\).*(gunzip|bunzip2|unxz) "):
            WebDataset(str(tmp_path / f"{mode}.tar")).training()


def test_a_shard_that_goes_during_training_is_an_error_of_the_picture(shards: Path) -> None:
    table = WebDataset(str(shards)).training()
    table.read(0)
    cut(shards / "00000.tar", 1000)
    with pytest.raises(ValueError, match=r"00000\.tar"):
        table.read(0)
    (shards / "00001.tar").unlink()
    with pytest.raises(OSError, match=r"00001\.tar"):
        table.read(5)
    assert table.read(10) == encoded(20, "JPEG")


def test_patterns(tmp_path: Path) -> None:
    assert expand_braces("{8..11}") == ["8", "9", "10", "11"]
    assert expand_braces("a{02..00}b{x,}") == ["a02bx", "a02b", "a01bx", "a01b", "a00bx", "a00b"]
    with pytest.raises(DataError, match="more than 1,000,000"):
        expand_braces("{0..99999999}")
    with pytest.raises(DataError, match="more than 1,000,000"):
        expand_braces("{0..9999}{0..9999}")
    for name in ("b.tar", "a.tar", "sub/c.tar", ".hidden.tar", "{x}.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = list_files(str(tmp_path), (".tar",), "data.shards")
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["a.tar", "b.tar", "sub/c.tar", "{x}.tar"]
    assert list_files(str(tmp_path / "{x}.tar"), (".tar",), "data.shards") == [tmp_path / "{x}.tar"]
    for given, message in (
        (str(tmp_path / "{a,z,y}.tar"), r"z.tar does not exist \(and 1 more of 3\)"),
        (str(tmp_path / "*.tgz"), "matches no file"),
        (str(tmp_path / "nowhere"), "does not exist"),
        ("", "data.shards is empty"),
        ((str(tmp_path / "a.tar"), str(tmp_path / "[ab].tar")), "names 1 of 3 files twice"),
    ):
        with pytest.raises(DataError, match=message):
            list_files(given, (".tar",), "data.shards")  # type: ignore[arg-type]
