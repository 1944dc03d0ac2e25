"""Callbacks of training runs: progress, checkpoints, moving averages, speed."""
