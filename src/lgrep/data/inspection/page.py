"""The inspection as one HTML page that needs nothing else: pictures inside, no scripts, no addresses."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from lgrep.data.inspection.inspect import Duplicates, Group, Inspection, Shown
from lgrep.data.inspection.statistics import Agreement, Histogram, Hubs, Repeated
from lgrep.html_page import document, text, write_document

LARGE = 32 * 2**20  # bytes from which browsers take their time
LONGEST = 300  # characters of a caption
_STYLE = """
section.group{border-top:1px solid #d8dce2;padding:10px 0} .row{display:flex;flex-wrap:wrap;gap:10px;margin:6px 0}
figure{margin:0;width:136px} figure img{max-width:128px;max-height:128px;border:1px solid #d8dce2;border-radius:3px}
figcaption{font-size:11px;color:#6b7280;overflow-wrap:anywhere} .broken{color:#d64545}
.views img{border-style:dashed} p.caption{margin:.2em 0;overflow-wrap:anywhere}
"""


def write_page(found: Inspection, settings: Mapping[str, str], path: Path) -> int:
    """Write the page in one step.

    Args:
        found: what to show.
        settings: name -> choice, for the head of the page.
        path: of the HTML file; its folder is made.

    Returns:
        Its size in bytes.
    """
    return write_document(path, page(found, settings))


def page(found: Inspection, settings: Mapping[str, str]) -> str:
    """The whole page; everything that comes from data is escaped."""
    title = f"{found.name}: pairs"
    blocks = [
        f"<h1>{text(title)}</h1>",
        _table([(text(name), text(value)) for name, value in settings.items()]),
        *_counts(found),
        *_similarity(found.similarity),
        *_labels(found.labels),
        *_duplicates(found.duplicates, found.equal_captions, found.empty_captions),
        *_hubs(found.hubs, found.hub_texts, found.anchors),
        f"<h2>{len(found.groups)} of {found.anchors:,} anchors</h2>",
        *(_group(group) for group in found.groups),
    ]
    return document(title, blocks, _STYLE)


def histogram_svg(histogram: Histogram, unit: str, width: int = 640, height: int = 130) -> str:
    """Bars whose tooltips tell range and count."""
    most, number = max(histogram.counts), len(histogram.counts)
    step, floor = width / number, height - 20
    bars = []
    for place, count in enumerate(histogram.counts):
        low, high = histogram.edges[place], histogram.edges[place + 1]
        name = f"{low:.0f}" if histogram.whole else f"{low:.4g} to {high:.4g}"
        tall = max(1.0, (floor - 16) * count / most) if count else 0.0
        bars.append(
            f'<rect class="bar" x="{place * step + 1:.1f}" y="{floor - tall:.1f}" width="{max(step - 2, 1):.1f}" '
            f'height="{tall:.1f}"><title>{escape(unit)} {name}: {count:,}</title></rect>'
        )
    last = histogram.edges[-2] if histogram.whole else histogram.edges[-1]
    labels = (
        f'<text x="0" y="{height - 5}">{histogram.edges[0]:.4g}</text>'
        f'<text x="{width}" y="{height - 5}" text-anchor="end">{last:.4g}</text>'
        f'<text x="0" y="11">at most {most:,}</text>'
    )
    return f'<svg width="{width}" height="{height}" role="img">{"".join(bars)}{labels}</svg>'


def _counts(found: Inspection) -> Iterable[str]:
    yield "<h2>Counts</h2>"
    rows = [("pictures", found.pictures), ("captions", found.captions), ("anchors of an epoch", found.anchors)]
    yield _table([(name, f"{count:,}") for name, count in rows], numbers=True)
    if found.per_caption is not None:
        yield "<h2>Pictures per caption</h2>"
        yield histogram_svg(found.per_caption, "pictures per caption")


def _similarity(histogram: Histogram | None) -> Iterable[str]:
    if histogram is not None:
        yield "<h2>Similarity of neighbours</h2>"
        yield histogram_svg(histogram, "similarity")


def _labels(found: Agreement | None) -> Iterable[str]:
    if found is None:
        return
    yield "<h2>Labels</h2>"
    if not found.pairs:
        yield f"<p>{_percent(found.labelled)} of the pictures have a label; no pair of different ones was drawn.</p>"
        return
    yield (
        f"<p>{_percent(found.agreeing)} of {found.pairs:,} pairs have equal labels; two pictures at random have them in "
        f"{_percent(found.chance)} of the cases. {_percent(found.labelled)} of the pictures have a label.</p>"
    )


def _duplicates(files: Duplicates | None, captions: Repeated | None, empty: int) -> Iterable[str]:
    if files is not None:
        yield "<h2>Equal files</h2>"
        unreadable = f"; {files.unreadable:,} could not be read" if files.unreadable else ""
        yield (
            f"<p>{files.files.members:,} of {files.read:,} pictures are copies of each other ({files.files.kinds:,} sets)"
            f"{unreadable}. {_percent(files.pairs)} of the drawn pairs are twice the same file.</p>"
        )
        yield _examples(files.files)
    if captions is not None:
        yield "<h2>Equal captions</h2>"
        blank = f" {empty:,} captions are empty." if empty else ""
        yield f"<p>{captions.members:,} captions share their text with another ({captions.kinds:,} texts).{blank}</p>"
        yield _examples(captions)


def _hubs(found: Hubs | None, texts: list[str], anchors: int) -> Iterable[str]:
    if found is None:
        return
    yield "<h2>Hubs</h2>"
    yield (
        f"<p>The {len(found.top)} most chosen {found.unit}s take {_percent(found.share)} of {found.edges:,} edges; "
        f"{found.never:,} of {found.units:,} are nobody's neighbour.</p>"
    )
    rows = [
        (f"{degree:,}", _percent(degree / max(found.units, 1)), text(_short(caption)))
        for (_, degree), caption in zip(found.top, texts, strict=True)
    ]
    yield _table([("neighbour of", f"share of all {found.unit}s", "caption"), *rows], head=True)


def _group(group: Group) -> str:
    captions = dict.fromkeys(caption for picture in group.pictures for caption in picture.captions)
    lines = "".join(f'<p class="caption">{text(_short(caption)) or "(no caption)"}</p>' for caption in captions)
    pictures = "".join(map(_figure, group.pictures))
    views = f'<div class="row views">{"".join(map(_figure, group.views))}</div>' if group.views else ""
    head = f"<h2>anchor {group.anchor:,}</h2>"
    return f'<section class="group">{head}{lines}<div class="row">{pictures}</div>{views}</section>'


def _figure(picture: Shown) -> str:
    notes = [text(picture.identity)]
    if picture.similarity is not None:
        notes.append(f"similarity {picture.similarity:.3f}")
    if picture.label is not None:
        notes.append(f"label {picture.label}")
    if picture.problem:
        notes.append(f'<span class="broken">{text(picture.problem)}</span>')
    image = ""
    if picture.jpeg is not None:
        encoded = base64.b64encode(picture.jpeg).decode("ascii")
        image = f'<img alt="{text(picture.identity)}" src="data:image/jpeg;base64,{encoded}">'
    return f"<figure>{image}<figcaption>{'<br>'.join(filter(None, notes))}</figcaption></figure>"


def _examples(found: Repeated) -> str:
    if not found.examples:
        return ""
    rows = [(f"{count:,} x", text(_short(what, 4 * LONGEST))) for what, count in found.examples]
    return _table(rows)


def _table(rows: Sequence[tuple[str, ...]], head: bool = False, numbers: bool = False) -> str:
    lines = []
    for place, cells in enumerate(rows):
        tags = ["th" if place == 0 else "td"] * len(cells) if head else ["th", *["td"] * (len(cells) - 1)]
        kind = ' class="n"' if numbers else ""
        lines.append(
            "".join(f"<{tag}{kind * (tag == 'td')}>{cell}</{tag}>" for tag, cell in zip(tags, cells, strict=True))
        )
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _short(caption: str, longest: int = LONGEST) -> str:
    return caption if len(caption) <= longest else f"{caption[:longest]} ..."
