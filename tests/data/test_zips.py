"""Zip archives: the source, the store that finds members by name, and what damage does."""

from __future__ import annotations

import pickle
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from archives import write_zip
from made import encoded, picture_folder

from lgrep.data.containers import ranges
from lgrep.data.containers.ranges import OpenFiles
from lgrep.data.containers.zips import Directories, Member, read_directory, unpack
from lgrep.data.sources import ZipSource
from lgrep.data.stores import ArchiveStore
from lgrep.errors import DataError


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    folder = tmp_path / "zips"
    folder.mkdir()
    for number, method in enumerate((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)):
        root = picture_folder(tmp_path / str(number), groups=4, per_group=2)
        files = {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*.*"))}
        files |= {"__MACOSX/x.png": b"x", "class_a/": b""}
        write_zip(folder / f"{number}.zip", files.items(), method)
    return folder


def test_pictures_of_zips_are_rows(archives: Path, tmp_path: Path) -> None:
    table = ZipSource(str(archives)).training()
    assert len(table) == table.num_groups == 16
    for row in range(16):
        archive, _, member = table.identity(row).partition("/")
        assert table.read(row) == (tmp_path / archive.removesuffix(".zip") / member).read_bytes()
        assert table.caption(row) == ""
    assert table.store.shard.tolist() == [0] * 8 + [1] * 8  # type: ignore[attr-defined]
    again = pickle.loads(pickle.dumps(table.select([3, 9])))
    assert [again.read(row) for row in range(2)] == [table.read(3), table.read(9)]


def test_captions_and_folder_labels(archives: Path) -> None:
    table = ZipSource(str(archives), captions=("txt",), labels="folder", group="caption", probe_share=0).training()
    assert table.num_groups == 4 and [len(table.members(group)) for group in range(4)] == [4] * 4
    assert all(f"caption_{table.caption(row)[-1]}/" in table.identity(row) for row in range(16))
    assert [int(label) for label in table.column("label")] == [int(table.caption(row)[-1]) for row in range(16)]


def test_every_picture_counts_whatever_its_name(tmp_path: Path) -> None:
    files = {"a.jpg": encoded(1), "a.png": encoded(2), "b.1.png": encoded(3), "b.2.png": encoded(4), "ä\n.png": b"x"}
    table = ZipSource(str(write_zip(tmp_path / "x.zip", files.items()))).training()
    assert [table.identity(row) for row in range(5)] == [f"x.zip/{name}" for name in [*list(files)[:4], "ä\\n.png"]]


def test_bad_crc_is_a_broken_picture(archives: Path) -> None:
    table = ZipSource(str(archives)).training()
    path = archives / "0.zip"
    data = bytearray(path.read_bytes())
    place = bytes(data).index(table.read(2)) + 50
    data[place] ^= 1
    path.write_bytes(data)
    table = ZipSource(str(archives)).training()
    with pytest.raises(ValueError, match="bad CRC"):
        table.read(2)
    assert table.read(1)


def test_a_zip_without_its_directory_is_lost(archives: Path) -> None:
    path = archives / "1.zip"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"8 of 16 pictures cannot be used, more than data.max_left_out=0.1"):
        ZipSource(str(archives)).training()
    assert len(ZipSource(str(archives), max_left_out=0.5).training()) == 8


def test_encrypted_members_are_left_out(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", [("a.png", encoded(1)), ("b.png", encoded(2))])
    data = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):  # flags of the first member
        data[data.index(mark) + place] |= 1
    path.write_bytes(data)
    source = ZipSource(str(path), max_left_out=0.5)
    assert len(source.training()) == 1 and "encrypted" in source.left_out[0][1]


# Members by name


def store(folder: Path, count: int = 3) -> tuple[ArchiveStore, dict[str, bytes]]:
    files = {f"{i:03d}.jpg": encoded(i, "JPEG") for i in range(20)} | {"日本.jpg": b"y" * 50}
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    paths = [write_zip(folder / f"{number}.zip", files.items(), methods[number % 2]) for number in range(count)]
    return ArchiveStore(paths, np.repeat(np.arange(count), len(files)), pa.array(list(files) * count)), files


def test_members_are_found_by_name(tmp_path: Path) -> None:
    archive, files = store(tmp_path)
    assert [archive.read(row) for row in range(63)] == [*files.values()] * 3
    assert archive.locate(22) == f"{tmp_path}/1.zip/001.jpg"
    part = pickle.loads(pickle.dumps(archive.subset(np.array([25, 3]))))
    assert [part.read(0), part.read(1)] == [files["004.jpg"], files["003.jpg"]]


def test_a_name_within_a_name_is_not_mistaken(tmp_path: Path) -> None:
    names = ["x/1.jpg", "11.jpg", "1.jpg.txt", "1.jp", "1.jpg"]
    path = write_zip(tmp_path / "x.zip", [(name, name.encode() * 3) for name in names])
    found = ArchiveStore([path], np.zeros(5, int), pa.array(names))
    assert [found.read(row) for row in range(5)] == [name.encode() * 3 for name in names]
    with pytest.raises(FileNotFoundError, match="no member 'jpg'"):
        Directories(OpenFiles()).find(path, "jpg")


def test_few_archives_stay_open(tmp_path: Path) -> None:
    archive, files = store(tmp_path, count=9)
    archive._files.limit = archive._directories.limit = 2
    for row in np.random.default_rng(0).integers(0, 9 * 21, 100):
        assert archive.read(row) == [*files.values()][row % 21]
        assert len(archive._files._handles) <= 2 and len(archive._directories._kept) <= 2


def test_comments_and_zip64(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open(zipfile.ZipInfo("a.jpg"), "w", force_zip64=True) as member:
            member.write(b"forced")
        archive.writestr("b.jpg", b"plain")
        archive.comment = b"PK\x05\x06 a comment that looks like the end" + b"." * 300
    found = ArchiveStore([path], np.zeros(2, int), pa.array(["a.jpg", "b.jpg"]))
    assert [found.read(0), found.read(1)] == [b"forced", b"plain"]
    write_zip(path, [("a.jpg", b"1"), ("b.jpg", b"2")])
    path.write_bytes(path.read_bytes() + bytes(100))  # padded by a download tool
    found = ArchiveStore([path], np.zeros(2, int), pa.array(["a.jpg", "b.jpg"]))
    assert [found.read(0), found.read(1)] == [b"1", b"2"]


def test_zip64_directories_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    files = {f"{i}.jpg": bytes([i]) * 200 for i in range(5)}
    path = write_zip(tmp_path / "x.zip", files.items())
    monkeypatch.undo()
    assert b"PK\x06\x06" in path.read_bytes()
    found = ArchiveStore([path], np.zeros(5, int), pa.array(list(files)))
    assert [found.read(row) for row in range(5)] == [*files.values()]


def test_what_is_missing_or_damaged_is_an_error_of_the_picture(tmp_path: Path) -> None:
    archive, _ = store(tmp_path)
    archive.read(0)
    (tmp_path / "0.zip").write_bytes(b"no zip")
    fresh = pickle.loads(pickle.dumps(archive))
    with pytest.raises(ValueError, match="no zip archive"):
        fresh.read(0)
    (tmp_path / "1.zip").unlink()
    with pytest.raises(OSError, match=r"1\.zip"):
        fresh.read(21)
    with pytest.raises(ValueError):
        archive.read(0)


def test_random_damage_raises_nothing_else(tmp_path: Path) -> None:
    archive, files = store(tmp_path)
    whole = (tmp_path / "1.zip").read_bytes()
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(300):
        data = bytearray(whole)
        for place in rng.integers(len(data) - 2500, len(data), 4):
            data[place] = rng.integers(256)
        (tmp_path / "1.zip").write_bytes(data)
        fresh = pickle.loads(pickle.dumps(archive))
        row = int(rng.integers(21, 42))
        try:
            assert fresh.read(row) == [*files.values()][row - 21]
        except (OSError, ValueError):
            wrong += 1
    assert 30 < wrong < 300


def test_bombs_are_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = bomb.compress(bytes(50_000_000)) + bomb.flush()
    with pytest.raises(ValueError, match="does not unpack to the 1,000 bytes"):
        unpack(packed, Member(0, len(packed), 1000, 8, 0))
    path = write_zip(tmp_path / "x.zip", [("a.jpg", bytes(3_000_000))], zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(ranges, "MAX_BYTES", 2_000_000)
    with pytest.raises(ValueError, match="3,000,000 bytes, more than the limit of 2,000,000"):
        ArchiveStore([path], np.zeros(1, int), pa.array(["a.jpg"])).read(0)


def test_split_archives_are_named(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", [("a.jpg", b"x")])
    data = bytearray(path.read_bytes())
    struct.pack_into("<H", data, data.rindex(b"PK\x05\x06") + 4, 3)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="split zip"):
        read_directory(OpenFiles(), path)
