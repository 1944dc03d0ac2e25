"""Nested cross-validation: values of a grid are chosen inside the training bags of every fold."""
