"""Data of whole slides."""
