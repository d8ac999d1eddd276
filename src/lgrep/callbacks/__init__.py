"""Callbacks that show a run learn: online probes, collapse monitor, speed, progress and pictures."""

from lgrep.callbacks.collapse import CollapseMonitor
from lgrep.callbacks.contact_sheet import ContactSheet
from lgrep.callbacks.knn import OnlineKNN
from lgrep.callbacks.linear import OnlineLinearProbe
from lgrep.callbacks.progress import ProgressBar
from lgrep.callbacks.run_plots import RunPlots
from lgrep.callbacks.throughput import Throughput

__all__ = [
    "CollapseMonitor",
    "ContactSheet",
    "OnlineKNN",
    "OnlineLinearProbe",
    "ProgressBar",
    "RunPlots",
    "Throughput",
]
