"""Evaluation of bags."""
