"""Metrics of reading pages: `torchmetrics.Metric` classes, and the plain functions that they are made of.

`normalisation`, `distance`, `trees`, `tables`, `loops` and `characters` need no torch: the evaluation's processes
import these alone.
"""
