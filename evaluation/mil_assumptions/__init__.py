"""Algorithmic unit tests of multiple-instance models."""
