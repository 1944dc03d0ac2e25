"""Loggers: CSV, Weights & Biases, provenance."""
