"""Feature extractors."""

from models.backbones.norm import Norm
from models.backbones.resnet_fpn import ResNet50FPN
from models.backbones.timm_fpn import TimmFPN

__all__ = ["Norm", "ResNet50FPN", "TimmFPN"]
