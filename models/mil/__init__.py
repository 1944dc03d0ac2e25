"""Multiple-instance learners, one method a file."""

from models.mil.abmil import ABMIL
from models.mil.protocol import MILModel, probabilities

__all__ = ["ABMIL", "MILModel", "probabilities"]
