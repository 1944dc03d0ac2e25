"""The error of a loss that is not finite."""

from __future__ import annotations


class LossNotFiniteError(ValueError):
    """A loss is NaN or infinite; the message names the term and the samples."""
