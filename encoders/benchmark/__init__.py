"""What `python -m encoders.bench` measures."""
