"""Training protocols of single segmentation models."""
