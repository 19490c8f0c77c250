"""The vision side: tokenizers, encoders, query banks, views."""
