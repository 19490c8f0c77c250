"""Ablations: a grid of variants and seeds, planned, run as a process a cell, and resumed."""
