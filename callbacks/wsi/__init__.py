"""Callbacks for whole slides."""
