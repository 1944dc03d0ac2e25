"""YOLO segmentation data."""
