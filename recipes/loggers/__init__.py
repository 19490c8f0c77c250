"""Where metrics go."""

from recipes.loggers.metrics_file import MetricsFile

__all__ = ["MetricsFile"]
