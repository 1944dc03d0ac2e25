"""Bags whose target is a time, a value or a grade: where it is read and how bags are divided."""
