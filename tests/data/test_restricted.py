"""The restricted reader: the published layouts as Python's own reader gives them, and nothing that runs."""

from __future__ import annotations

import builtins
import datetime
import io
import os
import pickle
import pickletools
import struct
import sys
import tracemalloc
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgrep.data.restricted import machine, opcodes, read_records, windows
from lgrep.errors import DataError


def read(path: Path) -> list[Any]:
    return [item for batch in read_records(path) for item in batch]


def written(tmp_path: Path, data: bytes, name: str = "file.pkl") -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


def refusal(tmp_path: Path, data: bytes) -> str:
    with pytest.raises(DataError) as caught:
        read(written(tmp_path, data))
    message = str(caught.value)
    assert len(message) < 500 and "\n" not in message
    return message


TUPLES = [
    (12345678, "a title", "naïve 猫 \udcff"),
    (0, "", ""),
    (99_999_999, "x" * 300, "two\nlines"),
    (7, "a title", ""),
]
DICTS = [
    {"image_id": "0_123", "captions": ["one", "two"]},
    {"image_id": 7, "captions": []},
    {"image_name": "a.jpg", "image_id": 2**40, "captions": ["one"], "score": -1.5, "flag": True, "none": None},
]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("records", [TUPLES, DICTS, [], [TUPLES[0]], TUPLES * 700, [[1, [2, [b"3", (4,)]]], {1: ()}]])
def test_lists_of_every_protocol(tmp_path: Path, records: list[Any], protocol: int) -> None:
    for data in (pickle.dumps(records, protocol), pickletools.optimize(pickle.dumps(records, protocol))):
        found = read(written(tmp_path, data))
        assert found == records and [type(item) for item in found] == [type(item) for item in records]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_object_arrays_of_every_numpy(tmp_path: Path, protocol: int, core: str) -> None:
    """A `.npy` file is a header and the pickled array; NumPy 2 renamed the module in it."""
    array = np.empty(len(DICTS) * 900, object)
    array[:] = DICTS * 900
    data = pickle.dumps(array, protocol)
    ours = f"{np.ndarray.__reduce__(array)[0].__module__}".encode()
    if protocol < 4:
        data = data.replace(ours.rsplit(b".", 1)[0], core.encode())
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": array.shape})
    assert read(written(tmp_path, header.getvalue() + data, "cc3m.npy")) == DICTS * 900
    assert read(written(tmp_path, data)) == DICTS * 900


def test_what_numpy_writes_today(tmp_path: Path) -> None:
    array = np.empty(3, object)
    array[:] = [
        {"image_id": np.str_("naïve"), "captions": ["a"]},
        {"image_id": np.int64(-3)},
        {"score": np.float32(0.5)},
    ]
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    found = read(tmp_path / "a.npy")
    assert found == [{"image_id": "naïve", "captions": ["a"]}, {"image_id": -3}, {"score": 0.5}]
    assert [type(value) for item in found for value in item.values()] == [str, list, int, float]


def test_arrays_of_rank_two_and_zero_and_nested(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array(TUPLES * 501, dtype=object), allow_pickle=True)
    assert read(tmp_path / "a.npy") == [list(item) for item in TUPLES * 501]
    np.save(tmp_path / "b.npy", np.array({"a": 1}, dtype=object), allow_pickle=True)
    assert read(tmp_path / "b.npy") == [{"a": 1}]
    nested = np.array(["one", "two"], dtype=object)
    assert read(written(tmp_path, pickle.dumps([{"captions": nested}]))) == [{"captions": ["one", "two"]}]


@pytest.mark.parametrize("window", [2**12, 2**13 + 1])
def test_windows_may_end_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    monkeypatch.setattr(windows, "_WINDOW", window)
    monkeypatch.setattr(windows, "_AHEAD", 2**11)
    records = [(i, "t" * (i % 500), f"{i} {'é' * (i % 400)}") for i in range(2000)]
    path = written(tmp_path, pickle.dumps(records))
    assert path.stat().st_size > 50 * window
    assert read(path) == records
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="cut short"):
        read(path)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-(2**70), 2**70)
            | st.floats(allow_nan=False)
            | st.text()
            | st.binary(),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.tuples(inner, inner)
                | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
            ),
            max_leaves=8,
        )
    ),
    st.sampled_from([2, 3, 4, 5]),
)
def test_any_plain_value_comes_back(tmp_path_factory: pytest.TempPathFactory, value: list[Any], protocol: int) -> None:
    path = tmp_path_factory.mktemp("plain") / "a.pkl"
    path.write_bytes(pickle.dumps(value, protocol))
    found = read(path)
    assert found == value and repr(found) == repr(value)


class Calls:
    """Its pickle calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


HOSTILE = {
    "system": Calls(os.system, "touch HACKED"),
    "eval": Calls(builtins.eval, "1"),
    "getattr": Calls(getattr, "a", "upper"),
    "import": Calls(__import__, "os"),
    "load": Calls(np.load, "file.npy"),
    "class": OrderedDict(a=1),
    "date": datetime.date(2020, 1, 1),
    "complex": 1j,
    "exception": ValueError("x"),
}


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, protocol: int) -> None:
    monkeypatch.chdir(tmp_path)
    hostile = HOSTILE[name]
    array = np.empty(2, object)
    array[:] = [{"image_id": "a"}, hostile]
    for value in (hostile, [hostile], [(1, "a", "b"), {"a": [hostile]}], array):
        message = refusal(tmp_path, pickle.dumps(value, protocol))
        assert "refused" in message
        if protocol >= 2 and value is hostile:
            assert "asks for the global '" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.pkl"]


def test_the_message_names_global_and_opcode(tmp_path: Path) -> None:
    assert "'posix.system'" in refusal(tmp_path, pickle.dumps(Calls(os.system, "x"), 2))
    assert "'builtins.eval'" in refusal(tmp_path, pickle.dumps(Calls(eval, "x"), 4))
    assert "'numpy._core.multiarray.fromstring'" in refusal(tmp_path, b"\x80\x02cnumpy._core.multiarray\nfromstring\n.")
    assert "byte 3 is the opcode OBJ" in refusal(tmp_path, b"\x80\x02(o.")


@pytest.mark.parametrize(
    "opcode",
    [op for op in pickletools.opcodes if opcodes.ARGUMENTS[op.code.encode("latin1")[0]] == opcodes.REFUSED],
    ids=lambda op: op.name,
)
def test_every_other_opcode_is_refused_by_name(tmp_path: Path, opcode: Any) -> None:
    data = b"\x80\x04]" + opcode.code.encode("latin1") + b"\0" * 16 + b"."
    assert f"byte 3 is the opcode {opcode.name}" in refusal(tmp_path, data)


def test_every_allowed_opcode_is_handled() -> None:
    silent = {"PROTO", "FRAME", "STOP"}
    for code, kind in enumerate(opcodes.ARGUMENTS):
        if kind != opcodes.REFUSED and opcodes.NAMES[code] not in silent:
            assert hasattr(machine.Machine, f"_{opcodes.NAMES[code].lower()}"), opcodes.NAMES[code]
    assert not {"INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "PERSID", "BINPERSID", "NEXT_BUFFER"} & {
        opcodes.NAMES[code] for code, kind in enumerate(opcodes.ARGUMENTS) if kind != opcodes.REFUSED
    }


SCALAR = b"cnumpy._core.multiarray\nscalar\n"
DTYPE = b"cnumpy\ndtype\n"


@pytest.mark.parametrize(
    "data",
    [
        b"]cnumpy\nndarray\na.",  # a class as a value
        b"]cnumpy\nndarray\n)Ra.",  # a class that is called
        b"]cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x05\x85C\x01b\x87Ra.",  # another shape
        b"]" + SCALAR + DTYPE + b"U\x02" + b"a.",
        b"]" + SCALAR + DTYPE + b"X\x02\0\0\0i8\x85RC\x04abcd\x86Ra.",  # too few bytes
        b"]" + SCALAR + DTYPE + b"X\x02\0\0\0O8\x85RC\x08abcdefgh\x86Ra.",  # an address taken for an object
        b"]" + SCALAR + DTYPE + b"X\x03\0\0\0V99\x85RC\x08abcdefgh\x86Ra.",
        b"]c_codecs\nencode\nX\x01\0\0\0aX\x05\0\0\0idna2\x86Ra.",  # another codec
        b"]}K\x01b.",  # the state of a dict
        b"]q\0h\0a.",  # a list in itself
        b"](]q\0h\0h\0ee.",  # a list twice in itself
        b"]}]K\x01sa.",  # a list as a key
        b"]}K\x01\x85K\x01sa.",  # a tuple as a key, which may take forever to hash
        b"]h\0a.",  # an unknown reference
        b"]K\x01s.",
        b"]aaa.",
        b"]e.",
        b"(]K\x01.",
        b"0.",
        b".",
        b"]]q\0]q\1h\0ah\1]h\0aae.",
        b"]J\x01a.",
        b"]X\xff\xff\xff\xff.",  # 4 GB of text
        b"]X\x01\0\0\0\xffa.",  # not UTF-8
        b"K\x01K\x02.",
    ],
    ids=range(25),
)
def test_invalid_sequences_are_refused(tmp_path: Path, data: bytes) -> None:
    assert "refused" in refusal(tmp_path, b"\x80\x02" + data) or "cut short" in refusal(tmp_path, b"\x80\x02" + data)


def test_random_damage_is_never_another_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    array = np.empty(3, object)
    array[:] = DICTS
    whole = np.frombuffer(pickle.dumps(array, 4), np.uint8)
    outcomes = set()
    for _ in range(1000):
        damaged = whole.copy()
        places = rng.integers(0, len(damaged), rng.integers(1, 4))
        damaged[places] = rng.integers(0, 256, len(places))
        try:
            read(written(tmp_path, damaged.tobytes()))
            outcomes.add("read")
        except DataError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


@pytest.mark.parametrize("cut", [0, 1, 2, 30, 200, -40, -2, -1])
def test_truncated_files(tmp_path: Path, cut: int) -> None:
    array = np.empty(3, object)
    array[:] = DICTS
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    whole = (tmp_path / "a.npy").read_bytes()
    message = refusal(tmp_path, whole[:cut])
    assert "cut short" in message or "header" in message or "it starts with" in message


def test_bytes_after_the_end_and_other_files(tmp_path: Path) -> None:
    assert "3 bytes follow its end" in refusal(tmp_path, pickle.dumps(TUPLES) + b"abc")
    assert "neither a .npy file nor a pickle" in refusal(tmp_path, b"PK\x03\x04 zip")
    assert "array of int64 (3,), not of objects" in refusal(tmp_path, _saved(np.arange(3)))
    short = _saved(np.array([{"a": 1}] * 3, dtype=object)).replace(b"'shape': (3,)", b"'shape': (4,)")
    assert "promises an array of shape (4,), it holds 3" in refusal(tmp_path, short)
    with pytest.raises(DataError, match="Type data.metadata=FILE"):
        read(tmp_path / "missing.pkl")


def _saved(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def test_laughs_in_lists_tuples_and_dicts_are_refused(tmp_path: Path) -> None:
    """Ten of ten of ten ...: a kilobyte that would take longer than the universe to walk through."""
    for make in (list, tuple, lambda many: dict(enumerate(many))):
        bomb: Any = make(["lol"] * 10)
        for _ in range(40):
            bomb = make([bomb] * 10)
        assert "more than 32 times its size" in refusal(tmp_path, pickle.dumps([bomb]))


def test_laughs_in_strings_are_refused(tmp_path: Path) -> None:
    text = "x" * 50_000
    records = [(i, text, text) for i in range(2000)]  # 70 kB that stand for 200 MB
    data = pickle.dumps(records)
    assert len(data) < 100_000
    assert "more than 32 times its size" in refusal(tmp_path, data)
    flat = ["x" * 1000] * 3
    assert "more than 32 times its size" in refusal(tmp_path, pickle.dumps([[flat] * 5000]))


def test_depth_size_and_number_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "deeper than 8 levels" in refusal(tmp_path, b"\x80\x02]K\x01" + b"\x85" * 200_000 + b"a.")
    assert "deeper than 8 levels" in refusal(tmp_path, b"\x80\x02](" + b"]" * 3000 + b"a" * 2999 + b"e.")
    assert "a string of 2,000,000 bytes" in refusal(tmp_path, pickle.dumps(["x" * 2_000_000]))
    huge = b"\x80\x02]" + b"r\xff\xff\xff\xff" * 10 + b"K\x01a."  # a place far out in the memo
    assert read(written(tmp_path, huge)) == [1]
    monkeypatch.setattr(machine, "MAX_PENDING", 2**15)
    monkeypatch.setattr(windows, "_WINDOW", 2**14)
    monkeypatch.setattr(windows, "_AHEAD", 2**11)
    assert "one object takes more than" in refusal(tmp_path, b"\x80\x02](" + b"}" * 2**17 + b"e.")
    monkeypatch.setattr(opcodes, "MAX_SHARED", 10)
    many = b"\x80\x02]" + b"".join(b"j" + struct.pack("<I", i) for i in range(20_000)) + b"."
    assert "more than 10 of its values" in refusal(tmp_path, many)


def test_memory_stays_flat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records are handed on as they come: what is held does not grow with the file."""
    monkeypatch.setattr(windows, "_WINDOW", 2**17)
    monkeypatch.setattr(windows, "_AHEAD", 2**14)
    path = written(tmp_path, pickle.dumps([(i, f"title {i}", f"description {i} " * 8) for i in range(20_000)]))
    assert path.stat().st_size > 2_500_000
    tracemalloc.start()
    count = sum(len(batch) for batch in read_records(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000
    assert peak < 1_000_000  # two windows and a batch of 1000 records


def test_the_reader_does_not_import_pickle() -> None:
    for module in (machine, opcodes, windows, sys.modules["lgrep.data.restricted"]):
        assert "pickle" not in vars(module)
