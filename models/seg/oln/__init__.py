"""OLN (Kim et al. 2022)."""

from models.seg.oln.oln import OLN
from models.seg.oln.proposals import OLNProposalOptions

__all__ = ["OLN", "OLNProposalOptions"]
