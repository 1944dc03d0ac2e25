"""Robustness benchmark: corrupted images, cells of scores, and what they say of a model."""
