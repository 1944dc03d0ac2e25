"""Transforms of images and masks."""
