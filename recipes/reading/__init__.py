"""What `python -m recipes.read` is made of."""
