"""Feature extractors."""

from models.backbones.csp import CSPBackbone, Scale
from models.backbones.norm import Norm
from models.backbones.resnet_fpn import ResNet50FPN
from models.backbones.timm_features import TimmFeatures
from models.backbones.timm_fpn import TimmFPN

__all__ = ["CSPBackbone", "Norm", "ResNet50FPN", "Scale", "TimmFPN", "TimmFeatures"]
