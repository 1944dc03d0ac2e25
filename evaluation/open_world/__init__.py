"""Scores of class-agnostic detections against known and novel objects, by named protocols."""
