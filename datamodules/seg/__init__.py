"""Datamodules of images."""
