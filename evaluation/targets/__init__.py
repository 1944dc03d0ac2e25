"""Scores, curves and figures of bags whose target is a time, values or a grade."""
