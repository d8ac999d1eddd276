"""Loggers: the metrics file that every run has."""

from lgrep.loggers.metrics_file import MetricsFile

__all__ = ["MetricsFile"]
