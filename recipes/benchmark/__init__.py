"""What `python -m recipes.bench` measures."""
