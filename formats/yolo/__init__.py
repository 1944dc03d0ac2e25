"""YOLO segmentation data sets."""
