"""Evaluation of instance segmentation."""
