"""The main table in Markdown, LaTeX and HTML."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from lgrep.evaluation.report.collect import Cell, Collected, Key
from lgrep.html_page import text


def markdown(found: Collected) -> str:
    """A Markdown table; values in percent where they are shares, ± half of the 95 % interval over seeds."""
    heads = ["model", *(_title(key).replace("|", "\\|") for key in found.columns)]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name, cells in _rows(found):
        lines.append("| " + " | ".join([name.replace("|", "\\|"), *(_plain(cell, "-") for cell in cells)]) + " |")
    lines += _footer(found)
    return "\n".join(lines) + "\n"


def latex(found: Collected) -> str:
    """A LaTeX table (package booktabs); the best of each column is bold."""
    best = {key: _best(found, key) for key in found.columns}
    lines = [r"\begin{tabular}{l" + "r" * len(found.columns) + "}", r"\toprule"]
    lines.append(" & ".join(["model", *(_escaped(_title(key)) for key in found.columns)]) + r" \\")
    lines.append(r"\midrule")
    for name, cells in _rows(found):
        values = []
        for key, cell in zip(found.columns, cells, strict=True):
            shown = _plain(cell, "--").replace(" ± ", r" $\pm$ ")
            values.append(rf"\textbf{{{shown}}}" if cell is not None and cell.mean == best[key] else shown)
        lines.append(" & ".join([_escaped(name), *values]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines + [f"% {line}" for line in _footer(found) if line]) + "\n"


def html(found: Collected, page: Path) -> str:
    """An HTML table whose values link to their records."""
    heads = "".join(f"<th>{text(title)}</th>" for title in ["model", *map(_title, found.columns)])
    lines = [f"<tr>{heads}</tr>"]
    best = {key: _best(found, key) for key in found.columns}
    for name, cells in _rows(found):
        line = [f"<td>{text(name)}</td>"]
        for key, cell in zip(found.columns, cells, strict=True):
            line.append(f'<td class="n">{_linked(cell, page, cell is not None and cell.mean == best[key])}</td>')
        lines.append(f"<tr>{''.join(line)}</tr>")
    if found.chance:
        values = (f"{100 * found.chance[key]:.1f}" if key in found.chance else "" for key in found.columns)
        lines.append("<tr><td>chance</td>" + "".join(f'<td class="n">{value}</td>' for value in values) + "</tr>")
    return f"<table>{''.join(lines)}</table>"


def _linked(cell: Cell | None, page: Path, best: bool) -> str:
    if cell is None:
        return "-"
    shown = f"<b>{_plain(cell, '-')}</b>" if best else _plain(cell, "-")
    links = "".join(f' <a href="{text(os.path.relpath(path, page.parent))}">{number}</a>'
                    for number, path in enumerate(cell.records, 1))  # fmt: skip
    return f"{shown}<small>{links}</small>"


def _rows(found: Collected) -> Iterator[tuple[str, list[Cell | None]]]:
    for name in found.models:
        yield name, [found.cells.get((name, key)) for key in found.columns]


def _title(key: Key) -> str:
    dataset, evaluation, metric = key
    return f"{dataset} {metric}" if metric.startswith(evaluation) else f"{dataset} {evaluation} {metric}"


def _plain(cell: Cell | None, nothing: str) -> str:
    if cell is None:
        return nothing
    scale = 100 if all(0 <= value <= 1 for value in cell.values) else 1
    shown = f"{scale * cell.mean:.1f}" if scale == 100 else f"{cell.mean:.3f}"
    if cell.interval is not None:
        shown += f" ± {scale * cell.interval:.1f}" if scale == 100 else f" ± {cell.interval:.3f}"
    return shown


def _best(found: Collected, key: Key) -> float | None:
    values = [cell.mean for (_, column), cell in found.cells.items() if column == key]
    return max(values, default=None)


def _footer(found: Collected) -> list[str]:
    seeds = {len(cell.values) for cell in found.cells.values()}
    about = "Shares in percent."
    if max(seeds, default=1) > 1:
        about += f" Mean over {min(seeds)} to {max(seeds)} seeds, ± half of the 95 % confidence interval (Student's t)."
    return ["", about, *found.notes]


def _escaped(value: str) -> str:
    for character in "\\&%$#_{}":
        value = value.replace(character, rf"\{character}" if character != "\\" else r"\textbackslash ")
    return value
