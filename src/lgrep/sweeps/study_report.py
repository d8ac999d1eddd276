"""Table, plot and best command of a study."""

from __future__ import annotations

import csv
import io
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Grid

from lgrep.files import replacing, write_text
from lgrep.sweeps.study import Study

SHOWN = 10  # trials in the printed table; trials.csv has all
WIDE = 4  # panels side by side


def report_study(study: Study, console: Console | None = None) -> bool:
    """Write `trials.csv` and `study.png`, print the best trials and what to type for the best one.

    Returns:
        Whether any trial was finished.
    """
    console = console or Console(highlight=False)
    trials, best = study.study.trials, study.best()
    write_table(study, trials)
    sign = -1 if study.goal.direction == "maximize" else 1
    done = sorted((t for t in trials if t.state.name == "COMPLETE"), key=lambda t: (sign * t.value, t.number))
    counts = Counter(trial.state.name.lower() for trial in trials)
    about = ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))
    grid = Grid(title=f"study: {about or 'no trials'}", title_justify="left")
    names = [parameter.name for parameter in study.space]
    for column in ("trial", *names, study.goal.metric):
        grid.add_column(column, overflow="fold")
    for trial in done[:SHOWN]:
        grid.add_row(str(trial.number + 1), *(_short(trial.params.get(name)) for name in names), f"{trial.value:.4f}")
    console.print()
    console.print(grid)
    failed = [trial for trial in trials if trial.state.name == "FAIL"]
    for trial in failed[:SHOWN]:
        console.print(f"trial {trial.number + 1} failed: {trial.user_attrs.get('error', '')}",
                      markup=False, soft_wrap=True)  # fmt: skip
    plot = ""
    if done:
        draw_study(study, trials, study.folder / "study.png")
        plot = " and study.png"
    console.print(f"trials.csv{plot} are in {study.folder}", markup=False, soft_wrap=True)
    if best is not None:
        console.print(f"best: python train.py {best_command(study, best)}", markup=False, soft_wrap=True)
    return best is not None


def best_command(study: Study, best: Any) -> str:
    """The overrides of a trial as a shell takes them."""
    keys = {parameter.name: parameter.key for parameter in study.space}
    return shlex.join([*study.fixed, *(f"{keys[name]}={value}" for name, value in best.params.items())])


def write_table(study: Study, trials: Sequence[Any]) -> None:
    """Write `trials.csv`: a row per trial, all metrics of its run."""
    names = [parameter.name for parameter in study.space]
    metrics = list(dict.fromkeys(name for trial in trials for name in trial.user_attrs.get("metrics", {})))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["trial", *names, "status", "value", *metrics, "run_dir", "error"])
    for trial in trials:
        facts = trial.user_attrs
        row = [trial.number + 1, *(trial.params.get(name, "") for name in names), trial.state.name.lower()]
        row += ["" if trial.value is None else trial.value]
        row += [facts.get("metrics", {}).get(name, "") for name in metrics]
        writer.writerow([*row, facts.get("run_dir", ""), facts.get("error", "")])
    write_text(study.folder / "trials.csv", buffer.getvalue())


def draw_study(study: Study, trials: Sequence[Any], path: Path) -> None:
    """Write a PNG: values over trials with the best so far, and one panel per setting; given-up trials are crosses."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = 1 + len(study.space)
    columns = min(panels, WIDE)
    rows = -(-panels // columns)
    figure = Figure(figsize=(4.2 * columns, 3.5 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    _history(axes[0], study, trials)
    for axis, parameter in zip(axes[1:], study.space, strict=False):
        _scatter(axis, parameter.name, parameter.log, trials)
    for axis in axes[:panels]:
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[panels:]:
        axis.set_visible(False)
    with replacing(path) as partial:
        figure.savefig(partial, dpi=110, format="png")


def _history(axis: Any, study: Study, trials: Sequence[Any]) -> None:
    better = max if study.goal.direction == "maximize" else min
    done = [trial for trial in trials if trial.state.name == "COMPLETE"]
    values = [trial.value for trial in done]
    axis.scatter([trial.number + 1 for trial in done], values, s=18)
    best = [better(values[: i + 1]) for i in range(len(values))]
    axis.step([trial.number + 1 for trial in done], best, where="post", linewidth=1.2, label="best so far")
    axis.set_title(study.goal.metric, fontsize=10, loc="left", parse_math=False)
    axis.set_xlabel("trial", fontsize=8)
    axis.legend(fontsize=7.5, frameon=False)


def _scatter(axis: Any, name: str, log: bool, trials: Sequence[Any]) -> None:
    for state, mark in (("COMPLETE", "o"), ("PRUNED", "x")):
        points = [(trial.params[name], _value(trial)) for trial in trials if trial.state.name == state]
        points = [(x, y) for x, y in points if y is not None]
        if points:
            axis.scatter([x for x, _ in points], [y for _, y in points], s=18, marker=mark)
    if log:
        axis.set_xscale("log")
    axis.set_xlabel(name, fontsize=8, parse_math=False)


def _value(trial: Any) -> float | None:
    """Its value, or the last one seen of a trial that was given up."""
    if trial.value is not None or not trial.intermediate_values:
        return None if trial.value is None else float(trial.value)
    return float(trial.intermediate_values[max(trial.intermediate_values)])


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
