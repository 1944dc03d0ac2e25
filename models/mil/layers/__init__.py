"""Layers shared by multiple-instance models."""
