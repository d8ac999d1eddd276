"""What features look like: similarity of models (CKA), a map of the test pictures, nearest neighbours."""

from __future__ import annotations

import importlib
import io
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from lgrep.data.pictures import decode, to_rgb
from lgrep.evaluation.contract import Part

MAPPED = 2000  # pictures that are laid out
TILE = 64  # px of a picture in the sheet
UMAP_SMALLEST = 10  # pictures, of which UMAP's spectral start needs some


def linear_cka(first: Tensor, second: Tensor) -> float:
    """Linear centred kernel alignment of two feature matrices of the same pictures, 0 to 1.

    Args:
        first: [N, D].
        second: [N, E].

    Paper:
        Kornblith et al., 2019, https://arxiv.org/abs/1905.00414, equation 4.

    >>> x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    >>> round(linear_cka(x, 2 * x @ torch.eye(3).flip(0) + 1), 6)
    1.0
    """
    a, b = (features.double() - features.double().mean(0) for features in (first, second))
    between, within = (a.T @ b).square().sum(), (a.T @ a).norm() * (b.T @ b).norm()
    return float(between / within) if within > 0 else 0.0


def layout(features: Tensor, seed: int = 0) -> tuple[np.ndarray[Any, Any], str]:
    """Coordinates [N, 2] of unit features, from their 50 first principal components, and the method's name.

    UMAP where umap-learn is installed, else t-SNE.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    values = normalize(features.float(), dim=1).numpy()
    parts = min(50, *values.shape)
    reduced = PCA(parts, random_state=seed).fit_transform(values)
    found: np.ndarray[Any, Any]
    umap = _umap() if len(values) > UMAP_SMALLEST else None
    if umap is not None:
        found = umap.UMAP(n_neighbors=min(15, len(values) - 1), random_state=seed, n_jobs=1).fit_transform(reduced)
        return found, "UMAP"
    perplexity = min(30.0, max(2.0, (len(values) - 1) / 3))
    found = TSNE(2, perplexity=perplexity, random_state=seed, init="pca").fit_transform(reduced)
    return found, "t-SNE"


def _umap() -> Any:
    """The module umap of umap-learn, None without it."""
    try:
        return importlib.import_module("umap") if metadata.version("umap-learn") else None
    except (ImportError, metadata.PackageNotFoundError):  # another package has a module of that name too
        return None


def sampled(count: int, seed: int = 0) -> Tensor:
    """Ascending rows of at most `MAPPED` of `count` pictures."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randperm(count, generator=draw)[:MAPPED].sort().values


def map_picture(points: np.ndarray[Any, Any], labels: Tensor, title: str) -> bytes:
    """PNG of laid-out pictures, coloured by class."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.scatter(points[:, 0], points[:, 1], c=labels.numpy(), s=6, cmap="tab20", linewidths=0)
    axes.set_title(title)
    axes.set_axis_off()
    return _png(figure)


def matrix_picture(matrix: np.ndarray[Any, Any], names: Sequence[str], title: str) -> bytes:
    """PNG of a matrix of shares, values written in where there is room."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    side = min(12.0, 2.5 + 0.3 * len(names))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.imshow(matrix, vmin=0, vmax=1, cmap="viridis")
    axes.set_title(title)
    if len(names) <= 40:
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        axes.set_yticks(range(len(names)), names, fontsize=7)
    for row, column in np.ndindex(*matrix.shape) if len(names) <= 12 else ():
        shown = f"{matrix[row, column]:.2f}"
        axes.text(
            column, row, shown, ha="center", va="center", fontsize=7, color="w" if matrix[row, column] < 0.6 else "k"
        )
    return _png(figure)


def neighbour_sheet(part: Part, features: Tensor, queries: int = 12, neighbours: int = 8, seed: int = 0) -> bytes:
    """PNG: in each row a test picture and its nearest other test pictures; a green edge marks the same class."""
    units = normalize(features.float(), dim=1)
    draw = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(units), generator=draw)[:queries]
    similarity = units[chosen] @ units.T
    similarity[torch.arange(len(chosen)), chosen] = -2.0
    order = similarity.topk(min(neighbours, len(units) - 1), dim=1).indices
    sheet = Image.new("RGB", ((order.shape[1] + 1) * TILE + 8, len(chosen) * TILE), "white")
    for row, query in enumerate(chosen.tolist()):
        sheet.paste(_tile(part, query, None), (0, row * TILE))
        for column, other in enumerate(order[row].tolist()):
            same = part.labels.ndim == 1 and bool(part.labels[query] == part.labels[other])
            sheet.paste(_tile(part, other, same), (8 + (column + 1) * TILE, row * TILE))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _tile(part: Part, position: int, same: bool | None) -> Image.Image:
    item = part.pictures[position]
    picture = decode(item) if isinstance(item, bytes) else to_rgb(item)
    tile = Image.new("RGB", (TILE, TILE), "white" if same is None else "#2e9e5b" if same else "#d64545")
    inner = picture.convert("RGB").resize((TILE - 4, TILE - 4), Image.Resampling.BILINEAR)
    tile.paste(inner, (2, 2))
    return tile


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
