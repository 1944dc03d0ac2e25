"""Subcommands of `evaluate.py` for whole slides."""
