"""One pass of an encoder over a set of pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, cast

import numpy as np
import torch
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lgrep.data.pictures import decode, to_rgb
from lgrep.data.table import Table
from lgrep.errors import DataError

Transform = Callable[[Image.Image], Tensor]
LONG = 1000  # passes over more pictures show a progress bar


class Pictures(Protocol):
    """Anything with a length that gives pictures (PIL) or their encoded bytes by position."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: int, /) -> Image.Image | bytes: ...


class TablePictures:
    """Encoded bytes of some rows of a table, in the order of `rows` (all when None).

    Args:
        table: where the pictures are.
        rows: int [N].
    """

    def __init__(self, table: Table, rows: np.ndarray[Any, Any] | Sequence[int] | None = None) -> None:
        self.table = table
        self.rows = np.arange(len(table)) if rows is None else np.asarray(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> bytes:
        return self.table.read(int(self.rows[position]))

    def identity(self, position: int) -> str:
        """Name of a picture for messages."""
        return self.table.identity(int(self.rows[position]))


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients inside; every submodule gets its own mode back after it."""
    modes = {part: part.training for part in module.modules()}
    try:
        module.eval()
        # no inference_mode: a buffer that a backbone makes lazily must stay usable in training
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def extract_features(
    encoder: nn.Module,
    pictures: Pictures | Iterable[Image.Image | bytes],
    transform: Transform,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    num_workers: int = 0,
    progress: str | None = None,
) -> Tensor:
    """Features of pictures, in their order.

    Args:
        encoder: float pictures [B, 3, H, W] -> features [B, D] (further dimensions are flattened).
            Moved to `device`; its weights, buffers and modes are left as they were.
        pictures: PIL pictures or encoded bytes; `TablePictures` for rows of a table.
        transform: PIL picture in RGB -> float Tensor [3, H, W], the same size for all.
        batch_size: pictures per forward pass.
        device: where the encoder runs.
        num_workers: processes that decode; 0 decodes in this one.
        progress: text of the progress bar that long passes show; None shows none.

    Returns:
        float32 [N, D] on the CPU.

    Raises:
        DataError: pictures that cannot be decoded (named), no pictures, or features that are not finite.
    """
    indexed = hasattr(pictures, "__getitem__") and hasattr(pictures, "__len__")
    source = cast(Pictures, pictures if indexed else list(cast(Iterable[Any], pictures)))
    return torch.cat(list(feature_batches(encoder, source, transform, batch_size, device, num_workers, progress)))


def feature_batches(
    encoder: nn.Module,
    pictures: Pictures,
    transform: Transform,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    num_workers: int = 0,
    progress: str | None = None,
) -> Iterator[Tensor]:
    """What `extract_features` gives, batch by batch: float32 [B, D] on the CPU.

    After a picture that cannot be decoded, the rest is only looked through for more of them; the error comes at the end.
    """
    loader = DataLoader(
        _Rendered(pictures, transform),
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=_collate,
        generator=torch.Generator(),  # the loader must not draw from the global generator
    )
    encoder.to(device)
    parameter = next(encoder.parameters(), None)
    dtype = torch.float32 if parameter is None else parameter.dtype
    broken: list[str] = []
    done = 0
    with _bar(progress, len(pictures)) as advance:
        for batch, errors in loader:
            broken += errors
            if batch is not None and not broken:
                with evaluation_mode(encoder):  # not while the caller works on a batch
                    features = encoder(batch.to(device, dtype)).flatten(1).float().cpu()
                yield _finite(features, done)
                done += len(features)
            advance(batch_size)
    if broken:
        more = f" (and {len(broken) - 5} more)" if len(broken) > 5 else ""
        raise DataError(f"{len(broken)} of {len(pictures)} pictures cannot be decoded: {'; '.join(broken[:5])}{more}")
    if not done:
        raise DataError("there are no pictures to extract features from")


class _Rendered(Dataset[Tensor | str]):
    """Transformed pictures; a string says why one could not be decoded."""

    def __init__(self, pictures: Pictures, transform: Transform) -> None:
        self.pictures = pictures
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, position: int) -> Tensor | str:
        try:
            item = self.pictures[position]
            picture = decode(item) if isinstance(item, bytes) else to_rgb(item)
        except (OSError, ValueError, SyntaxError, DataError) as error:
            name = self.pictures.identity(position) if hasattr(self.pictures, "identity") else f"picture {position}"
            return f"{name} ({error})"
        return self.transform(picture)


def _collate(items: list[Tensor | str]) -> tuple[Tensor | None, list[str]]:
    good = [item for item in items if isinstance(item, Tensor)]
    return (torch.stack(good) if good else None), [item for item in items if isinstance(item, str)]


def _finite(features: Tensor, before: int) -> Tensor:
    """The features, refused where they are not finite; `before` pictures came in earlier batches."""
    bad = ~torch.isfinite(features).all(1)
    if bad.any():
        first = before + int(bad.nonzero()[0, 0])
        raise DataError(
            f"the encoder gives NaN or infinite features, first for picture {first} ({int(bad.sum())} in its batch)"
        )
    return features


@contextmanager
def _bar(text: str | None, total: int) -> Iterator[Callable[[int], None]]:
    if text is None or total <= LONG:
        yield lambda _: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task(text, total=total)
        yield lambda count: bar.update(task, advance=count)
