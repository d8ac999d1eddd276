"""Loggers: the metrics file that every run has, and trackers that show the same elsewhere."""

from lgrep.loggers.metrics_file import MetricsFile
from lgrep.loggers.tensorboard import TensorBoard
from lgrep.loggers.tracker import Tracker
from lgrep.loggers.wandb import WandB

__all__ = ["MetricsFile", "TensorBoard", "Tracker", "WandB"]
