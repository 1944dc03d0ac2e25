"""Evaluation of bag predictions."""
