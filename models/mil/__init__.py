"""Multiple-instance learners, one method a file."""

from models.mil.protocol import MILModel, probabilities

__all__ = ["MILModel", "probabilities"]
