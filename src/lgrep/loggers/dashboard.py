"""The dashboard at W&B as code: which panels there are, and how W&B's own package makes them."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lgrep.errors import ConfigError
from lgrep.loggers.wandb import STEP

GUIDANCE = "data.guidance_scale"  # setting of generated pictures, as the runs' configuration names it


@dataclass(frozen=True)
class Panel:
    """A panel.

    Attributes:
        kind: `line` over steps (or `x`), `bar` of the runs' last values, `scatter` of last values over a setting,
            `parallel` axes of settings and a last value, `pictures`.
        title: above the panel.
        y: names of metrics; settings for `parallel`.
        x: name on the x-axis: a metric for `line`, a setting for `scatter`.
        pattern: regular expression for the metrics of a `line` in place of `y`.
        log: a logarithmic y-axis.
    """

    kind: Literal["line", "bar", "scatter", "parallel", "pictures"]
    title: str
    y: tuple[str, ...] = ()
    x: str | None = None
    pattern: str | None = None
    log: bool = False


@dataclass(frozen=True)
class Section:
    """Panels under a heading."""

    name: str
    panels: tuple[Panel, ...]


TRAINING = Section(
    "Training",
    (
        Panel("line", "loss", ("train/loss",)),
        Panel("line", "learning rate", ("train/lr",)),
        Panel("line", "accuracy and scale of the method", pattern=r"train/(accuracy|logit_scale)"),
    ),
)
PROBES = Section(
    "Probes",
    (
        Panel("line", "online probes", ("probe/knn_top1", "probe/linear_top1")),
        Panel("line", "evaluators during training", pattern=r"eval/.*"),
        Panel("line", "effective rank (RankMe)", pattern=r"collapse/.*_rankme"),
        Panel("line", "spread of features", pattern=r"collapse/.*_std"),
        Panel("pictures", "positives, neighbours, curves", ("positives", "neighbours", "curves")),
    ),
)
THROUGHPUT = Section(
    "Throughput",
    (
        Panel("line", "steps over seconds", (STEP,), x="_runtime"),
        Panel("bar", "pictures per second", ("speed/pictures_per_second",)),
        Panel("bar", "share of waiting for data", ("speed/data_wait",)),
        Panel("bar", "peak memory, GB", ("speed/peak_memory_gb",)),
    ),
)


def dashboard(objective: str = "probe/knn_top1") -> list[Section]:
    """The sections; names of metrics are those of `metrics.csv`.

    Args:
        objective: metric that sweeps are judged by.
    """
    names = dict.fromkeys(("probe/knn_top1", "probe/linear_top1", objective))
    guidance = tuple(Panel("scatter", f"{name} over guidance scale", (name,), x=GUIDANCE) for name in names)
    settings = ("optimizer.base_lr", "method.temperature", GUIDANCE)
    sweep = (Panel("bar", objective, (objective,)), Panel("parallel", "settings", (*settings, objective)))
    return [TRAINING, PROBES, THROUGHPUT, Section("Guidance sweep", guidance), Section("Sweep", sweep)]


def as_plain(sections: list[Section]) -> list[dict[str, Any]]:
    """The sections as plain containers, for JSON."""
    return [asdict(section) for section in sections]


def build_workspace(sections: list[Section], entity: str, project: str, name: str) -> Any:
    """W&B's own workspace object; nothing is sent.

    Raises:
        ConfigError: the package `wandb-workspaces` is missing.
    """
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise ConfigError(
            "a dashboard needs the package 'wandb-workspaces', which is not installed. Type pip install "
            "wandb-workspaces, or --dry-run for the description alone"
        )
    ws: Any = importlib.import_module("wandb_workspaces.workspaces")
    made = [
        ws.Section(name=section.name, panels=[_panel(panel) for panel in section.panels], is_open=True)
        for section in sections
    ]
    settings = ws.WorkspaceSettings(x_axis=STEP)
    return ws.Workspace(entity=entity, project=project, name=name, sections=made, settings=settings)


def _panel(panel: Panel) -> Any:
    wr: Any = importlib.import_module("wandb_workspaces.reports.v2")
    if panel.kind == "line":
        names: dict[str, Any] = {"metric_regex": panel.pattern} if panel.pattern else {"y": list(panel.y)}
        return wr.LinePlot(title=panel.title, x=panel.x or STEP, log_y=panel.log or None, **names)
    if panel.kind == "bar":
        return wr.BarPlot(title=panel.title, metrics=list(panel.y), groupby=None)
    if panel.kind == "scatter":
        (name,) = panel.y
        return wr.ScatterPlot(title=panel.title, x=wr.Config(panel.x or GUIDANCE), y=wr.SummaryMetric(name))
    if panel.kind == "pictures":
        return wr.MediaBrowser(title=panel.title, media_keys=list(panel.y))
    *settings, result = panel.y
    columns = [wr.ParallelCoordinatesPlotColumn(metric=wr.Config(name)) for name in settings]
    columns.append(wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric(result)))
    return wr.ParallelCoordinatesPlot(title=panel.title, columns=columns)
