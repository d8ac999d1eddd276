import json
from pathlib import Path

import numpy as np
from made import encoded, picture_folder

from lgrep.data import emoji
from lgrep.data.sources import EmojiSource, FolderSource


def test_emoji_trains_on_its_protocol_and_probes_the_validation_fold() -> None:
    source = EmojiSource()
    table, probe = source.training(), source.probe()
    assert set(table.column("designer").astype(str)) == {"noto", "notov1", "fluent3d", "fluentflat", "fxemoji"}
    assert set(table.caption_column("fold")) == {2, 3, 4}
    assert set(probe.queries.caption_column("fold")) == {1}
    assert set(probe.gallery.caption_column("fold")) == {2, 3, 4}
    assert probe.gallery.column("label").min() >= 0
    assert probe.class_names == emoji.class_names()
    assert len(EmojiSource(designers=("noto",)).training()) == 954


def test_folder_groups_labels_and_captions(tmp_path: Path) -> None:
    root = picture_folder(tmp_path)
    plain = FolderSource(str(root)).training()
    assert plain.num_groups == len(plain) == 18
    folder = FolderSource(str(root), group="folder", captions="sidecar").training()
    assert folder.num_groups == 6
    assert [len(folder.members(group)) for group in range(6)] == [3] * 6
    assert all(f"caption_{folder.caption(row)[-1]}" in folder.identity(row) for row in range(18))
    caption = FolderSource(str(root), group="caption", captions="sidecar").training()
    assert caption.num_groups == 6
    assert all(folder.read(row) == (root / folder.identity(row)).read_bytes() for row in range(18))


def test_folder_keeps_probe_pictures_out_of_training(tmp_path: Path) -> None:
    root = picture_folder(tmp_path, groups=20)
    source = FolderSource(str(root), labels="folder", probe_share=0.3)
    training, probe = source.training(), source.probe()
    assert probe is not None
    ids = [set(table.column("id")) for table in (training, probe.gallery, probe.queries)]
    assert ids[0] == ids[1]
    assert not ids[0] & ids[2]
    assert 6 < len(ids[2]) < 32
    assert probe.class_names == ["class_a", "class_b"]
    names = [probe.class_names[label] for label in probe.queries.column("label")]
    assert all(str(file).startswith(name) for file, name in zip(probe.queries.column("id"), names, strict=True))
    (root / "class_a" / "new.png").write_bytes(encoded(1))
    assert ids[2] <= set(FolderSource(str(root), labels="folder", probe_share=0.3).probe().queries.column("id"))  # type: ignore[union-attr]


def test_json_captions_and_odd_unicode(tmp_path: Path) -> None:
    for name, text in (("a", "  naïve \u200d🧑‍🚀 猫 "), ("b", "\u202eright to left")):
        (tmp_path / f"{name}.png").write_bytes(encoded(1))
        (tmp_path / f"{name}.json").write_text(json.dumps({"caption": text}), encoding="utf-8")
    table = FolderSource(str(tmp_path), captions="sidecar").training()
    assert [table.caption(row) for row in range(2)] == ["naïve \u200d🧑‍🚀 猫", "\u202eright to left"]


def test_equal_folders_have_equal_hashes(tmp_path: Path) -> None:
    roots = [picture_folder(tmp_path / name) for name in ("x", "y")]
    hashes = [FolderSource(str(root)).training().content_hash for root in roots]
    assert hashes[0] == hashes[1]
    (roots[1] / "class_a" / "more.png").write_bytes(encoded(9))
    assert FolderSource(str(roots[1])).training().content_hash != hashes[0]
    assert isinstance(FolderSource(str(roots[0])).training().column("group"), np.ndarray)
