"""Probes of trained encoders: in which order do the queries look at a page."""
