"""Resampling and tests."""
