"""Instance-level supervision by contrastive learning and prototypes (INS)."""

from models.mil.ins.ins import INS

__all__ = ["INS"]
