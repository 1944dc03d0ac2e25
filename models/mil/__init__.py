"""Multiple-instance learners, one method a file."""

from models.mil.abmil import ABMIL
from models.mil.lenet import LeNetEncoder
from models.mil.protocol import MILModel

__all__ = ["ABMIL", "LeNetEncoder", "MILModel"]
