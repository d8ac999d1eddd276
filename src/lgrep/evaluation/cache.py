"""Features that were computed once, kept in files that every evaluator and process may use."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lgrep.data.arrow_files import user_cache
from lgrep.data.notices import notice, reason_of, shown
from lgrep.errors import ConfigError
from lgrep.files import write_text

try:
    import fcntl
except ImportError:  # no such locks on Windows, where files that are open cannot be removed anyway
    fcntl = None  # type: ignore[assignment]

StorageType = Literal["float32", "float16"]
_FORMAT = 1
_WHOLE = 2**28  # bytes; of larger files a sample of blocks is hashed
_BLOCK, _BLOCKS = 2**16, 512
_LEFTOVER_SECONDS = 86_400.0


class _Unwritable(Exception):
    """The cache could not be written; the features themselves are fine."""


class FeatureCache:
    """Feature matrices by what defines them: `KEY.json` (a description) names `KEY-DIGEST.npy` (memory-mapped).

    Files appear in one step, so processes that compute the same entry at the same time both end with a right one.
    Entries with another length, header or hash than described are computed again. When all entries together exceed
    the limit, those unused for longest go; one that any process has open, or that was just written, stays. A cache
    that cannot be written is said so and done without.

    Args:
        folder: of the entries; None: the user's cache folder.
        max_gb: limit of all entries in 10^9 bytes; a larger matrix is not kept.
        dtype: numbers on disk. float16 halves the space and rounds what evaluators see, whether it was kept before
            or not.
    """

    def __init__(self, folder: str | Path | None = None, max_gb: float = 20.0, dtype: StorageType = "float32") -> None:
        self.folder = user_cache() / "features" if folder is None else Path(folder).expanduser()
        self.limit = int(max_gb * 1e9)
        self.dtype = dtype

    def features(
        self,
        about: Mapping[str, Any],
        count: int,
        make: Callable[[], Iterator[Tensor]],
        agrees: Callable[[Tensor], bool] | None = None,
    ) -> Tensor:
        """The matrix that `about` describes, from its file, or made and kept.

        Args:
            about: all that defines the features, as JSON types.
            count: N rows.
            make: computes them: float32 [B, D] on the CPU, batch by batch.
            agrees: a last look at what a file holds; False has it made again.

        Returns:
            float32 [N, D] on the CPU; changing it does not change the file.
        """
        about = {**about, "format": _FORMAT, "dtype": self.dtype, "count": count}
        key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
        found = self._read(key, about)
        if found is not None and (agrees is None or agrees(found)):
            return found
        batches = make()
        first = next(batches)
        size = count * first.shape[1] * np.dtype(self.dtype).itemsize
        if size > self.limit:
            notice(f"features of {size / 1e9:.1f} GB are not kept: the limit is cache.max_gb={self.limit / 1e9:g}")
            return self._rounded(torch.cat([first, *batches]))
        try:
            return self._write(key, about, chain([first], batches))
        except _Unwritable as error:
            notice(
                f"features are not kept in {shown(self.folder)}: {error}. Type cache.folder=DIR or cache.enabled=false"
            )
            return self._rounded(torch.cat(list(make())))

    def _read(self, key: str, about: Mapping[str, Any]) -> Tensor | None:
        """The entry, if it is there and whole."""
        description = self.folder / f"{key}.json"
        try:
            entry = json.loads(description.read_text(encoding="utf-8"))
            if entry["about"] != about:
                raise ValueError("its description is another")
            features = _mapped(self.folder / Path(str(entry["file"])).name, entry)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            notice(f"cached features {shown(description)} are damaged ({reason_of(error)}) and computed again")
            return None
        with contextlib.suppress(OSError):
            os.utime(description)  # the time of the last use
        return torch.from_numpy(features).float()

    def _write(self, key: str, about: Mapping[str, Any], batches: Iterator[Tensor]) -> Tensor:
        partial = self.folder / f".{key}.{os.getpid()}.{secrets.token_hex(4)}.partial"
        try:
            shape = self._fill(partial, int(about["count"]), batches)
            with _writing(), self._locked():
                entry = {
                    "about": dict(about),
                    "shape": shape,
                    "bytes": partial.stat().st_size,
                    "digest": _digest(partial),
                    "created": datetime.now(UTC).isoformat(timespec="seconds"),
                }
                entry["file"] = f"{key}-{str(entry['digest'])[:12]}.npy"
                os.replace(partial, self.folder / str(entry["file"]))
                write_text(self.folder / f"{key}.json", json.dumps(entry, indent=1) + "\n")
                features = self._read(key, about)  # from now on it is open, which no process removes
                self._shrink()
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
        if features is None:
            raise _Unwritable("what was written cannot be read again")
        return features

    def _fill(self, path: Path, count: int, batches: Iterator[Tensor]) -> list[int]:
        """Write an .npy file; its shape."""
        rows, width = 0, 0
        with _writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            file = path.open("wb")
        with file:
            for batch in batches:
                block = self._stored(batch)
                with _writing():
                    if not rows:
                        width = block.shape[1]
                        header = {"descr": block.dtype.str, "fortran_order": False, "shape": (count, width)}
                        np.lib.format.write_array_header_1_0(file, header)  # type: ignore[no-untyped-call]
                    file.write(np.ascontiguousarray(block).data)
                rows += len(block)
            with _writing():
                file.flush()
                os.fsync(file.fileno())
        if rows != count:
            raise ValueError(f"{rows} rows of features came for {count} pictures")
        return [count, width]

    def _stored(self, features: Tensor) -> NDArray[Any]:
        with np.errstate(over="ignore"):
            block: NDArray[Any] = features.numpy().astype(self.dtype, copy=False)
        if self.dtype == "float16" and not np.isfinite(block).all():
            raise ConfigError("cache.dtype=float16 cannot hold these features (above 65,504). Type cache.dtype=float32")
        return block

    def _rounded(self, features: Tensor) -> Tensor:
        """Features as they come out of a file."""
        return torch.from_numpy(self._stored(features)).float()

    def _shrink(self) -> None:
        """Remove entries, those unused for longest first, until the rest fits; and what broken processes left."""
        entries: list[tuple[float, Path, Path, int]] = []
        for description in self.folder.glob("*.json"):
            try:
                data = self.folder / Path(str(json.loads(description.read_text(encoding="utf-8"))["file"])).name
                entries.append((description.stat().st_mtime, description, data, data.stat().st_size))
            except (OSError, ValueError, KeyError, TypeError):  # names nothing that could be used
                _remove(description)
        total = sum(size for *_, size in entries)
        for _, description, data, size in sorted(entries):
            if total <= self.limit:
                break
            if not _in_use(data):
                _remove(description, data)
                total -= size
        named = {data for _, _, data, _ in entries}
        for path in [*self.folder.glob("*.npy"), *self.folder.glob(".*.partial")]:
            with contextlib.suppress(OSError):
                old = time.time() - path.stat().st_mtime > _LEFTOVER_SECONDS
                if path not in named and old and not _in_use(path):
                    _remove(path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among the processes that add or remove entries."""
        with (self.folder / ".lock").open("ab") as handle:
            _lock(handle, exclusive=True)
            yield


def _mapped(path: Path, entry: Mapping[str, Any]) -> NDArray[Any]:
    """The array of a file that is as described, mapped; a shared lock lasts as long as the map."""
    with path.open("rb") as file:
        _lock(file, exclusive=False)
        np.lib.format.read_magic(file)  # type: ignore[no-untyped-call]
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        offset = file.tell()
        length = os.fstat(file.fileno()).st_size
        described = (tuple(entry["shape"]), entry["about"]["dtype"], entry["bytes"])
        if fortran or (shape, dtype.name, length) != described:
            raise ValueError(f"it has {length} bytes for {shape} {dtype}, not {described}")
        if _digest(path) != entry["digest"]:
            raise ValueError("its hash is another")
        return np.memmap(file, dtype, mode="c", offset=offset, shape=shape)


def _digest(path: Path) -> str:
    """Hash of a file; of a large one its ends and blocks between them."""
    digest, size = hashlib.sha256(), path.stat().st_size
    with path.open("rb") as file:
        if size <= _WHOLE:
            digest = hashlib.file_digest(file, "sha256")
        else:
            for number in range(_BLOCKS):
                file.seek(number * (size - _BLOCK) // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()


def _lock(file: BinaryIO | Any, exclusive: bool, wait: bool = True) -> bool:
    """Whether the lock was had; file systems without locks count as yes."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _in_use(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return not _lock(file, exclusive=True, wait=False)
    except OSError:
        return False


def _remove(*paths: Path) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _Unwritable(reason_of(error)) from error
