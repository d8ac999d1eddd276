"""Making published metadata from the lists that its authors publish."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path
from urllib.parse import quote_plus

import numpy as np
import pyarrow.parquet as pq
import pytest
from published import YFCC, jpeg, yfcc15m

from lgrep.config.compose import compose_config
from lgrep.config.spec import build, validate_spec
from lgrep.data.making import make_conceptual, make_yfcc15m, parts
from lgrep.data.making.yfcc import clean_flickr
from lgrep.data.sources import ClipRocketSource
from lgrep.errors import ConfigError, DataError


def flickr_lists(folder: Path, extra: int = 0) -> dict[str, str]:
    """The three inputs; only the pictures of YFCC[:6] are wanted, YFCC[6] is not there, YFCC[7] not in the subset."""
    lines = []
    for number, index in enumerate(YFCC):
        columns = [f"column {i}" for i in range(24)]
        columns[0] = str(index)
        columns[8] = quote_plus(f"title <b>no</b> {number} é" if number else "")
        columns[9] = quote_plus('see <a href="x y">this</a> http://a.org/b?c=1 now' if number % 2 else "")
        lines.append("\t".join(columns))
    lines += [f"{10_000_000 + i}\t" + "\t".join(["x"] * 20) for i in range(extra)]
    lines += ["99999998\ttoo\tfew", "abc\t" + "\t".join(["x"] * 20), "", "12345678901\tx"]
    (folder / "yfcc100m_dataset.txt").write_text("\n".join(lines) + "\n")
    subset = [str(index) for index in [*YFCC[:7], 99_999_998]]
    (folder / "yfcc100m_subset_data.tsv").write_text("".join(f"{index}\thash\tmore\n" for index in subset))
    np.save(folder / "flickr_unique_ids.npy", np.array([*YFCC[:6], YFCC[7], 99_999_998]))
    names = {
        "dataset": "yfcc100m_dataset.txt",
        "subset": "yfcc100m_subset_data.tsv",
        "downloaded": "flickr_unique_ids.npy",
    }
    return {key: str(folder / name) for key, name in names.items()}


def test_yfcc15m_from_its_lists_trains(tmp_path: Path) -> None:
    said = make_yfcc15m(tmp_path / "yfcc15m.parquet", **flickr_lists(tmp_path))
    assert (
        said.startswith("6 rows of 12 lines")
        and "1 left out: fewer than 10 columns" in said
        and "2 not in the set" in said
    )
    yfcc15m(tmp_path)
    source = ClipRocketSource(str(tmp_path / "yfcc15m.parquet"), str(tmp_path / "pictures"), "yfcc15m")
    table = source.training()
    assert [table.identity(row) for row in range(6)] == [f"{index:08d}" for index in YFCC[:6]]
    assert table.texts(0) == [""] and table.texts(2) == ["title no 2 é"]
    assert table.texts(3) == ["title no 3 é", "see this  now"] and table.read(3) == jpeg(3)
    assert not (tmp_path / "yfcc15m.parquet.parts").exists()


def test_cleaning_as_published() -> None:
    assert clean_flickr("a%2Bb+c") == "a b c"  # decoded first, so that a real plus is lost too
    assert clean_flickr("%3Ca+href%3D%22http%3A%2F%2Fx%22%3Elink%3C%2Fa%3E+%3Cbr%3E") == "link <br>"
    assert clean_flickr("www.a.org%2Fb+%3Ci%3Ex%3C%2Fi%3E+%FF") == "x \ufffd"
    assert clean_flickr("100%25+%26amp%3B") == "100% &amp;"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("subset", b"", "holds no index"),
        ("subset", b"4294967296\tx\n", "not Flickr's own photo number"),
        ("downloaded", b"junk", "no readable .npy array"),
        ("dataset", b"\xff\n", "none of its 1 lines gives a row"),
    ],
)
def test_broken_lists(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    inputs = flickr_lists(tmp_path)
    Path(inputs[name]).write_bytes(content)
    with pytest.raises(DataError, match=said):
        make_yfcc15m(tmp_path / "out.parquet", **inputs)
    with pytest.raises(DataError, match="make.subset=.*cannot be read"):
        make_yfcc15m(tmp_path / "out.parquet", **{**inputs, "subset": str(tmp_path / "none")})
    np.save(inputs["downloaded"], np.array([0.5]))
    if name != "subset":
        with pytest.raises(DataError, match="array of float64"):
            make_yfcc15m(tmp_path / "out.parquet", **inputs)


def test_an_interrupted_job_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was finished is not read again, and the table is the same."""
    inputs = flickr_lists(tmp_path, extra=200)
    make_yfcc15m(tmp_path / "whole.parquet", **inputs)
    monkeypatch.setattr(parts, "PART", 1000)
    write, written = parts._write_part, []

    def failing(file: Path, *rest: object) -> object:
        if len(written) == 4:
            raise OSError(28, "No space left on device")
        written.append(file.name)
        return write(file, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(parts, "_write_part", failing)
    with pytest.raises(DataError, match=r"No space left.*stay in .*out.parquet.parts.*same command"):
        make_yfcc15m(tmp_path / "out.parquet", **inputs)
    assert not (tmp_path / "out.parquet").exists()
    (tmp_path / "out.parquet.parts" / "00003.parquet").write_bytes(b"cut")
    written[:] = []
    monkeypatch.setattr(parts, "_write_part", lambda file, *rest: (written.append(file.name), write(file, *rest))[1])
    make_yfcc15m(tmp_path / "out.parquet", **inputs)
    assert written[:2] == ["00003.parquet", "00004.parquet"]
    assert pq.read_table(tmp_path / "out.parquet").equals(pq.read_table(tmp_path / "whole.parquet"))


def test_another_job_does_not_take_over_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = flickr_lists(tmp_path, extra=200)
    monkeypatch.setattr(parts, "PART", 1000)
    with monkeypatch.context() as patched:
        patched.setattr(parts, "_join", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        with pytest.raises(DataError):
            make_yfcc15m(tmp_path / "out.parquet", **inputs)
    (tmp_path / "yfcc100m_subset_data.tsv").write_text(f"{YFCC[2]}\n")
    make_yfcc15m(tmp_path / "out.parquet", **inputs)
    assert pq.read_table(tmp_path / "out.parquet")["index"].to_pylist() == [YFCC[2]]


def conceptual(folder: Path, swapped: bool) -> Path:
    rows = [(f"caption {i} é" if i != 3 else "", f"https://a.org/{i}.jpg") for i in range(8)]
    lines = ["\t".join(row[::-1] if swapped else row) for row in rows] + ["one column", "a\tb\tc"]
    (folder / "list.tsv").write_bytes("\r\n".join(lines).encode() + b"\r\n\xff\tx")
    return folder / "list.tsv"


@pytest.mark.parametrize("layout", ["cc3m", "cc12m"])
@pytest.mark.parametrize("files", ["{line:09d}.jpg", "{shard:05d}/{line}_{crc32}", "{md5}.jpg", "{sha1}.jpg"])
def test_tables_of_downloaded_pictures_train(tmp_path: Path, layout: str, files: str) -> None:
    tsv = conceptual(tmp_path, layout == "cc12m")
    for i in range(6):
        url = f"https://a.org/{i}.jpg".encode()
        fields = {"line": i, "shard": 0, "crc32": zlib.crc32(url)}
        hashes = {name: hashlib.new(name, url).hexdigest() for name in ("md5", "sha1")}
        path = tmp_path / "pictures" / files.format(**fields, **hashes)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(i) if i != 4 else b"")
    said = make_conceptual(tmp_path / "out.parquet", layout, str(tsv), str(tmp_path / "pictures"), files)  # type: ignore[arg-type]
    assert said.startswith("4 rows of 11 lines") and "3 without a downloaded picture" in said
    assert "1 left out: no UTF-8" in said and "1 left out: without a caption" in said
    table = ClipRocketSource(str(tmp_path / "out.parquet"), str(tmp_path / "pictures"), layout).training()  # type: ignore[arg-type]
    assert [table.caption(row) for row in range(4)] == [f"caption {i} é" for i in (0, 1, 2, 5)]
    assert [table.read(row) for row in range(4)] == [jpeg(i) for i in (0, 1, 2, 5)]


@pytest.mark.parametrize("files", ["x.jpg", "{url}.jpg", "{line", "{line.real}", "{0}", "{line!x}", "{md5:05d}", ""])
def test_patterns_that_name_nothing(tmp_path: Path, files: str) -> None:
    with pytest.raises(ConfigError, match="make.files="):
        make_conceptual(tmp_path / "o", "cc3m", str(tmp_path / "t"), str(tmp_path), files)


def test_makers_compose(tmp_path: Path) -> None:
    inputs = flickr_lists(tmp_path)
    given = [f"make.{key}={value}" for key, value in inputs.items()]
    values, _ = compose_config("prepare", ["make=yfcc15m", f"out={tmp_path}/y.parquet", *given])
    assert "6 rows" in build(validate_spec(values["make"], "make", injected=("out",)), out=Path(values["out"]))
    (tmp_path / "pictures").mkdir()
    for name, more in (("cc3m", ["make.tsv=a", "make.root=b"]), ("cc12m", ["make.tsv=a", "make.root=b"])):
        values, _ = compose_config("prepare", [f"make={name}", f"out={tmp_path}/o", *more])
        assert validate_spec(values["make"], "make", injected=("out",))["layout"] == name
    values, _ = compose_config("prepare", ["make=lgssl_neighbours", "out=x", "make.file=a", "make.root=b"])
    validate_spec(values["make"], "make", injected=("out",))
