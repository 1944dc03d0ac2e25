"""Metrics and figures shared by training and the evaluation scripts."""
