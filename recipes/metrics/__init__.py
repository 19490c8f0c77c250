"""Metrics of reading pages: `torchmetrics.Metric` classes, and the plain functions that they are made of.

`normalisation`, `distance`, `trees`, `tables` and `loops` need no torch: the evaluation's processes import these alone.
"""
