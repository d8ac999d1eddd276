"""Long JSON files entry by entry, against Python's reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgrep.data import json_stream
from lgrep.data.json_stream import json_entries

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(VALUES) | st.dictionaries(st.text(), VALUES), st.integers(1, 40), st.sampled_from([None, 2]), st.booleans()
)
def test_entries_of_any_file_in_chunks_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, content: Any, chunk: int, indent: int | None, ascii_only: bool
) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(
        json.dumps(content, indent=indent, ensure_ascii=ascii_only), encoding="utf-8", errors="backslashreplace"
    )
    expected = json.loads(path.read_text(encoding="utf-8"))
    before, json_stream._CHUNK = json_stream._CHUNK, chunk
    try:
        found = list(json_entries(path, "data.x"))
    finally:
        json_stream._CHUNK = before
    assert found == (list(expected.items()) if isinstance(expected, dict) else [(None, value) for value in expected])


def test_what_is_held_does_not_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK", 1000)
    path = tmp_path / "a.json"
    path.write_text("\ufeff" + json.dumps({f"d{i}": {"x": ["path", "y" * 50]} for i in range(2000)}), encoding="utf-8")
    held = 0
    more = json_stream._Text.more

    def watched(self: Any) -> bool:
        nonlocal held
        result = more(self)
        held = max(held, len(self.data))
        return result

    monkeypatch.setattr(json_stream._Text, "more", watched)
    assert sum(1 for _ in json_entries(path, "data.x")) == 2000
    assert held < 3000
