"""Subcommands of `evaluate.py`, one a file."""
