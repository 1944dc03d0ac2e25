"""Metrics of places on whole slides."""
