"""Robustness of segmentation and multiple-instance models to worse images."""
