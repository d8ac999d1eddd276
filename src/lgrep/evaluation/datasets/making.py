"""From the published archives of an evaluation set to a set of the project's own format."""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path

from lgrep.data.notices import notice, reason_of, shown
from lgrep.data.preparing import SHARD_ROWS, Encoding, prepare
from lgrep.errors import ConfigError, DataError
from lgrep.evaluation.datasets.catalogue import build_set, read_spec
from lgrep.evaluation.datasets.missing import MissingDataset
from lgrep.evaluation.datasets.published import ABOUT, PublishedSet

_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_BROKEN = (OSError, EOFError, ValueError, NotImplementedError, RuntimeError, zlib.error, tarfile.TarError)


def make_dataset(
    out: Path,
    dataset: str,
    archives: str,
    splits: str | None = None,
    keep: bool = False,
    encoding: Encoding | None = None,
    shard_rows: int = SHARD_ROWS,
    workers: int = 0,
    max_skip_share: float = 0.1,
) -> str:
    """Write an evaluation set that `dataset=NAME` finds when OUT is `ROOT/NAME`.

    Archives are unpacked into `OUT.unpacked` first; a folder where they are unpacked already is read as it is. The same
    command goes on after an interruption.

    Args:
        out: folder of the set.
        dataset: name in the catalogue, or a YAML file.
        archives: folder of the published archives and label files, or one archive.
        splits: index lists; see `PublishedSet`.
        keep: keep what was unpacked.
        encoding: what is stored of each picture.
        shard_rows, workers, max_skip_share: see `lgrep.data.preparing.prepare`.

    Returns:
        A sentence that counts the pictures.

    Raises:
        ConfigError: no such name, or a set without archives.
        DataError: a broken archive, or files in no known layout.
    """
    spec = read_spec(dataset)
    if "layouts" not in spec:
        raise ConfigError(f"make.dataset={dataset}: this set has no archives to prepare; it is read as it is")
    source = Path(archives).expanduser()
    if not source.exists():
        raise DataError(f"make.archives={archives} does not exist. Point it to the folder with {_wanted(spec)}")
    unpacked = out.with_name(out.name + ".unpacked")
    try:
        _unpack_all(source, unpacked, [str(name) for name in spec.get("archives", ())])
    except OSError as error:
        raise DataError(f"unpacking {shown(source)} into {shown(unpacked)} stopped ({reason_of(error)})") from error
    opened = _opened(dataset, unpacked, splits, f"make.archives={archives} does not give {dataset}: {_wanted(spec)}")
    about = prepare(
        opened.table,
        out,
        encoding,
        shard_rows,
        workers,
        max_skip_share,
        opened.name,
        extra={ABOUT: opened.about},
    )
    if not keep:
        shutil.rmtree(unpacked)
    counts = ", ".join(f"{part} {len(rows.labels):,}" for part, rows in opened.parts().items())
    left = f"; {about['skipped']:,} broken pictures are left out (skipped.jsonl)" if about["skipped"] else ""
    return f"{opened.name}: {counts}; {opened.num_classes:,} classes{left}. Evaluate with dataset={opened.name}"


def _opened(dataset: str, folder: Path, splits: str | None, missing: str) -> PublishedSet:
    """The set in its published layout; `missing` begins the message when it is not there."""
    try:
        opened = build_set(dataset, root=str(folder), **({"splits": splits} if splits else {}))
    except MissingDataset as error:
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise DataError(f"{missing} are needed; there is {there}") from error
    assert isinstance(opened, PublishedSet)
    return opened


def _wanted(spec: dict[str, object]) -> str:
    names = spec.get("archives")
    return " and ".join(map(str, names)) if isinstance(names, list) else "its files"


def _unpack_all(source: Path, unpacked: Path, wanted: list[str]) -> None:
    """Every archive, unpacked, and links to all other files and folders, in one folder."""
    unpacked.mkdir(parents=True, exist_ok=True)
    paths = sorted(source.iterdir()) if source.is_dir() else [source]
    chosen = [path for path in paths if path.name in wanted]
    for path in paths:
        archive = _kind(path)
        if archive is None:
            link = unpacked / path.name
            if not link.exists() and not link.is_symlink():
                link.symlink_to(path.absolute())
        elif not chosen or path in chosen:
            done = unpacked / f".{path.name}.done"
            if not done.exists():
                _unpack(path, archive, unpacked)
                done.touch()


def _kind(path: Path) -> str | None:
    name = path.name.lower()
    if not path.is_file():
        return None
    if name.endswith(_TARS):
        return "tar"
    if name.endswith(".rar"):
        notice(f"{shown(path)} is a RAR archive, which is not read: unpack it with another program")
    return {".zip": "zip", ".gz": "gz"}.get(path.suffix.lower())


def _unpack(path: Path, kind: str, folder: Path) -> None:
    """Unpack one archive; members that would leave the folder, links out of it and devices are refused.

    Raises:
        DataError: the archive is damaged or refused.
    """
    notice(f"unpacking {shown(path)}")
    try:
        if kind == "tar":
            with tarfile.open(path) as archive:
                archive.extractall(folder, filter="data")
        elif kind == "zip":
            with zipfile.ZipFile(path) as members:
                members.extractall(folder)  # zipfile itself keeps every member inside
        elif not (target := folder / path.name[:-3]).exists():
            partial = target.with_name(target.name + ".partial")
            with gzip.open(path, "rb") as packed, partial.open("wb") as plain:
                shutil.copyfileobj(packed, plain)
            os.replace(partial, target)
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, FileExistsError):
            raise
        raise DataError(
            f"{shown(path)} cannot be unpacked ({str(error)[:150] or type(error).__name__}). Copy it again"
        ) from error
