"""Resampling and statistical tests."""
