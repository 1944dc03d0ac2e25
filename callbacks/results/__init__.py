"""Curves, tables and prediction files."""
