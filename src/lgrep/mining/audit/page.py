"""The audit as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lgrep.data.inspection.page import histogram_svg
from lgrep.html_page import document, rows_of, text, write_document
from lgrep.mining.audit.compare import Compared
from lgrep.mining.audit.findings import Audit, Leakage, Pair


def write_audit(
    found: Audit, compared: Sequence[Compared], missing: Sequence[str], settings: Mapping[str, str], path: Path
) -> None:
    """Write the page in one step.

    Args:
        found: about one neighbour table.
        compared: encoders side by side; may be empty.
        missing: why some encoders were left out.
        settings: name -> value, for the head of the page.
        path: of the HTML file; its folder is made.
    """
    blocks = [
        f"<h1>{text(settings.get('set', ''))}: mined neighbours</h1>",
        rows_of([(text(name), text(value)) for name, value in settings.items()]),
        *_similarity(found),
        *_labels(found),
        *_degree(found),
        *(_leakage(found.leakage) if found.leakage is not None else ()),
        *_compared(compared, missing),
    ]
    write_document(path, document("neighbours", blocks))


def _similarity(found: Audit) -> Iterable[str]:
    yield f"<h2>Similarity</h2><p>{found.without:,} of {found.rows:,} rows have no neighbour.</p>"
    for name, histogram in (("nearest neighbours", found.first), ("all neighbours", found.similarity)):
        if histogram is not None:
            yield f"<p>{name}</p>{histogram_svg(histogram, 'similarity')}"
    yield rows_of(
        [[str(rank), f"{value:.3f}"] for rank, value in enumerate(found.by_rank, 1)], ("neighbour", "mean similarity")
    )
    yield "<h2>Near-duplicates</h2>" + _levels(found.duplicates, "rows whose nearest neighbour is at least so similar")
    yield _pairs(found.most_similar, ("caption", "neighbour"))


def _labels(found: Audit) -> Iterable[str]:
    if found.labels is not None:
        yield f"<h2>Label agreement</h2><p>Two labelled rows at random agree in {_percent(found.chance)}.</p>"
        rows = [[str(k), _percent(share)] for k, share in enumerate(found.labels, 1)]
        yield rows_of(rows, ("k", "of the first k neighbours have the row's label"))


def _degree(found: Audit) -> Iterable[str]:
    hubs = found.hubs
    yield f"<h2>In-degree</h2><p>{hubs.never:,} of {hubs.units:,} are nobody's neighbour.</p>"
    if found.in_degree is not None:
        yield histogram_svg(found.in_degree, "in-degree")
    rows = [[f"{degree:,}", text(caption)] for (_, degree), caption in zip(hubs.top, found.hub_texts, strict=True)]
    yield rows_of(rows, ("neighbour of", "caption"))


def _leakage(found: Leakage) -> Iterable[str]:
    yield f"<h2>Leakage: {found.rows:,} held-out rows of {text(found.name)}</h2>"
    yield f"<p>{found.same_ids:,} ids of pictures and {found.same_texts:,} captions are in both sets.</p>"
    yield _levels(found.shares, "held-out rows with a mined row at least so similar")
    if found.nearest is not None:
        yield histogram_svg(found.nearest, "similarity")
    yield _pairs(found.examples, ("held out", "mined"))


def _compared(compared: Sequence[Compared], missing: Sequence[str]) -> Iterable[str]:
    if compared or missing:
        yield "<h2>Encoders side by side</h2>"
    if compared:
        heads = ("encoder", "label agreement k=1", "of all k", "nearest like the first's", "mean similarity", "hub")
        yield rows_of([[text(one.encoder), *numbers(one)] for one in compared], heads)
        examples = zip(*(one.examples for one in compared), strict=True)
        rows = [[text(row[0][0]), *(text(near) for _, near in row)] for row in examples]
        yield rows_of(rows, ("caption", *(text(one.encoder) for one in compared)))
    yield from (f"<p>{text(why)}</p>" for why in missing)


def numbers(one: Compared) -> list[str]:
    """Cells of one encoder."""
    labels = one.labels
    first, every = ("-", "-") if labels is None else (_percent(labels[0]), _percent(labels[-1]))
    return [first, every, _percent(one.agreement), f"{one.similarity:.3f}", f"{one.greatest_in_degree:,}"]


def _levels(shares: Mapping[float, float], what: str) -> str:
    return rows_of([[f"{level:g}", _percent(share)] for level, share in shares.items()], ("similarity", what))


def _pairs(pairs: Sequence[Pair], heads: tuple[str, str]) -> str:
    return rows_of([[f"{score:.3f}", text(one), text(other)] for one, other, score in pairs], ("similarity", *heads))


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
