"""Parts of `evaluate.py robustness`."""
