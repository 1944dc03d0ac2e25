"""Masked hard instance mining (MHIM and MHIM-v2)."""

from models.mil.mhim.global_recycle import GlobalRecycle
from models.mil.mhim.mhim import MHIM

__all__ = ["MHIM", "GlobalRecycle"]
