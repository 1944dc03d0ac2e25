"""Shifts of bags and of patches, for `evaluate.py robustness`."""
