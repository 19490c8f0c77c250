"""What `python -m kernels.bench` is made of: bytes by formula, cases with their peers, a clock, the record."""
