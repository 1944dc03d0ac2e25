"""Callbacks for instance segmentation."""
