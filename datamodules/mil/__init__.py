"""Datamodules of bags."""
