"""Callbacks of a run: progress, checkpoints, moving averages, speed."""
