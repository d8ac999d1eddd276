"""HTML pages that need nothing else: pictures inside, no scripts, no addresses."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from lgrep.data.notices import shown
from lgrep.files import replacing

_STYLE = """
body{font:14px/1.45 system-ui,sans-serif;color:#1f2328;margin:2em auto;max-width:1200px;padding:0 1em}
h1{font-size:22px} h2{font-size:17px;margin:1.8em 0 .5em} h3{font-size:14px;margin:1.2em 0 .3em}
table{border-collapse:collapse} td,th{padding:2px 14px 2px 0;text-align:left;vertical-align:top;overflow-wrap:anywhere}
th{color:#6b7280;font-weight:500} td.n{text-align:right;font-variant-numeric:tabular-nums}
.bar{fill:#4c78a8} .bar:hover{fill:#2e9e5b} svg text{font-size:11px;fill:#6b7280} img{max-width:100%}
"""


def document(title: str, blocks: Iterable[str], style: str = "") -> str:
    """The whole page.

    Args:
        title: plain text.
        blocks: HTML; what comes from data in it has gone through `text`.
        style: further CSS.
    """
    # Even if an escape were forgotten, no script would run and nothing would be fetched.
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{text(title)}</title><style>{_STYLE}{style}</style>"
    )
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(blocks) + "\n</body></html>\n"


def write_document(path: Path, content: str) -> int:
    """Write a page in one step; its size in bytes."""
    data = content.encode("utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_bytes(data)
    return len(data)


def text(value: object) -> str:
    """Data as one line of HTML text."""
    return escape(shown(value))


def rows_of(rows: Iterable[Sequence[str]], head: Sequence[str] = ()) -> str:
    """A table of cells that are HTML already."""
    lines = [f"<tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr>"] if head else []
    lines += [f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows]
    return f"<table>{''.join(lines)}</table>"


def png(data: bytes, label: str = "") -> str:
    """A PNG inside the page."""
    return f'<img alt="{text(label)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'
