"""Transforms of images and masks between the file and the batch."""
