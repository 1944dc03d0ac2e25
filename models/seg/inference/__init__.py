"""Prediction in tiles and in several views."""
