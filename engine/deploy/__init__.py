"""Prediction, timing and export of checkpoints."""
