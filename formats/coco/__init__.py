"""COCO annotations and results."""
