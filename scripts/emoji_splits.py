"""Clusters of near-duplicate captions and the five folds of the `emoji` set.

Captions whose drawings or names are nearly the same form a cluster, and a whole cluster lies in one fold,
so that no test drawing has a twin in training. Equal input gives equal folds.
"""

from __future__ import annotations

import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lgrep.errors import DataError

HELD_OUT_DESIGNER = "twemoji"
FAMILIES = {"fluentflat": "fluent", "fluent3d": "fluent"}  # one design drawn twice
FOLDS = 5
MIN_CLUSTERS = 15  # a subgroup with fewer clusters is no class of the labelled task
NEAR_PICTURE = 0.08  # RMSE at THUMBNAIL px, RGB in [0, 1]
SAME_PICTURE = 0.005
NEAR_NAME = 0.9  # cosine of the names' sentence embeddings
THUMBNAIL = 24
VARIANT = re.compile(
    r"\b(man|woman|person|men|women|people|boy|girl|child|mr|mrs|male|female"
    r"|red|orange|yellow|green|blue|purple|brown|black|white|grey|pink|light blue|blond"
    r"|left|right|up|down|upward|downward|leftwards|rightwards|small|medium|large"
    r"|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)\b"
    r"|o.clock|-thirty"
)

Pair = tuple[int, int]


@dataclass(frozen=True)
class Caption:
    """One emoji: its identity (code points in hex, joined by '-') and everything that is said about it."""

    code: str
    char: str
    name: str
    names: list[str]
    keywords: list[str]
    topic: str
    subgroup: str


@dataclass(frozen=True)
class Drawing:
    """One encoded picture of caption number `caption` by `designer`."""

    caption: int
    designer: str
    image: bytes


@dataclass(frozen=True)
class Splits:
    """Fold and cluster per caption (a cluster is named by its first caption's code) and the class names."""

    fold: dict[str, int]
    cluster: dict[str, str]
    classes: list[str]
    identical: list[tuple[str, str, str]]  # designer, code, code

    def as_json(self) -> dict[str, Any]:
        """The splits as plain JSON data, with the constants that belong to them."""
        return {
            "fold": self.fold,
            "cluster": self.cluster,
            "classes": self.classes,
            "identical": [list(pair) for pair in self.identical],
            "held_out_designer": HELD_OUT_DESIGNER,
            "design_family": FAMILIES,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any], codes: Sequence[str]) -> Splits:
        """Read `as_json` output.

        Raises:
            DataError: the splits are of other captions or hold out another designer.
        """
        if set(data["fold"]) != set(codes) or set(data["cluster"]) != set(codes):
            raise DataError("the splits name other captions than the drawings; leave --splits out to compute them")
        if data["held_out_designer"] != HELD_OUT_DESIGNER or data["design_family"] != FAMILIES:
            raise DataError(f"the splits must hold out {HELD_OUT_DESIGNER!r} and have the families {FAMILIES}")
        return cls(data["fold"], data["cluster"], data["classes"], [tuple(pair) for pair in data["identical"]])


def make_splits(captions: Sequence[Caption], drawings: Sequence[Drawing], embeddings: np.ndarray[Any, Any]) -> Splits:
    """Cluster the captions and deal whole clusters to the folds.

    Args:
        captions: in the set's order.
        drawings: of these captions; several designers each.
        embeddings: [len(captions), D] sentence embeddings of the names.
    """
    near, identical = _same_pictures(drawings)
    links = [*_same_name_without_variant(captions), *_same_meaning(embeddings), *near]
    roots = _components(len(captions), links)
    clusters: dict[int, list[int]] = defaultdict(list)
    for caption, root in enumerate(roots):
        clusters[root].append(caption)
    by_subgroup: dict[str, list[int]] = defaultdict(list)
    for root in clusters:
        by_subgroup[captions[root].subgroup].append(root)
    fold = _deal(clusters, by_subgroup)
    codes = [caption.code for caption in captions]
    return Splits(
        fold={code: fold[i] for i, code in enumerate(codes)},
        cluster={code: codes[root] for code, root in zip(codes, roots, strict=True)},
        classes=sorted(name for name, roots_here in by_subgroup.items() if len(roots_here) >= MIN_CLUSTERS),
        identical=[(designer, codes[i], codes[j]) for designer, i, j in identical],
    )


def _same_name_without_variant(captions: Sequence[Caption]) -> Iterable[Pair]:
    """Captions that differ only in gender, colour, hour, direction or size: cook, man cook, woman cook."""
    first: dict[str, int] = {}
    for i, caption in enumerate(captions):
        bare = re.sub(r"\s+", " ", VARIANT.sub("", caption.name.lower())).strip()
        stem = "keycap" if caption.name.startswith("keycap") else bare
        yield first.setdefault(stem, i), i


def _same_meaning(embeddings: np.ndarray[Any, Any]) -> Iterable[Pair]:
    text = embeddings.astype(np.float32)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    return [(int(i), int(j)) for i, j in np.argwhere(np.triu(text @ text.T > NEAR_NAME, 1))]


def _same_pictures(drawings: Sequence[Drawing]) -> tuple[list[Pair], list[tuple[str, int, int]]]:
    """Pairs of captions drawn nearly alike by two designers or identically by one, and the identical ones."""
    votes: Counter[Pair] = Counter()
    identical: list[tuple[str, int, int]] = []
    for designer in sorted({drawing.designer for drawing in drawings}):
        own = [drawing for drawing in drawings if drawing.designer == designer]
        distance = _distances(np.stack([thumbnail(drawing.image) for drawing in own]))
        for a, b in np.argwhere(np.triu(distance < NEAR_PICTURE, 1)):
            pair = (own[a].caption, own[b].caption)
            votes[min(pair), max(pair)] += 1
            if distance[a, b] < SAME_PICTURE:
                identical.append((designer, *pair))
    near = [pair for pair, designers in votes.items() if designers >= 2]
    return near + [(i, j) for _, i, j in identical], identical


def thumbnail(image: bytes) -> np.ndarray[Any, Any]:
    """The picture as a float32 vector of THUMBNAIL x THUMBNAIL x RGB in [0, 1]."""
    small = Image.open(io.BytesIO(image)).convert("RGB").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(small, np.float32).ravel() / 255


def _distances(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    square = (pixels * pixels).sum(1)
    inner = square[:, None] + square[None] - 2 * pixels @ pixels.T
    rmse: np.ndarray[Any, Any] = np.sqrt(np.maximum(inner, 0) / pixels.shape[1])
    return rmse


def _components(size: int, links: Sequence[Pair]) -> list[int]:
    """The smallest member of each node's connected component."""
    i, j = np.array(links, dtype=np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(i), dtype=np.int8), (i, j)), shape=(size, size))
    component = connected_components(graph, directed=False)[1]
    _, first = np.unique(component, return_index=True)
    return [int(root) for root in first[component]]


def _deal(clusters: dict[int, list[int]], by_subgroup: dict[str, list[int]]) -> dict[int, int]:
    """Fold per caption: largest clusters first, each to the fold with least of the subgroup, then least in all."""
    rng = np.random.RandomState(0)
    total = [0] * FOLDS
    fold: dict[int, int] = {}
    for subgroup in sorted(by_subgroup):
        here = [0] * FOLDS
        shuffled = rng.permutation(by_subgroup[subgroup]).tolist()
        for root in sorted(shuffled, key=lambda root: -len(clusters[root])):
            target = min(range(FOLDS), key=lambda f: (here[f], total[f]))
            here[target] += len(clusters[root])
            total[target] += len(clusters[root])
            fold.update(dict.fromkeys(clusters[root], target))
    return fold
