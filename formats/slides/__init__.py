"""Whole-slide images: files, resolution, patches."""
