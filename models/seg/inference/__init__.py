"""Prediction in tiles and several views."""
