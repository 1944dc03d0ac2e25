"""Lightning datamodules, one data layout a file."""

from datamodules.bags import MILDataModule
from datamodules.coco import CocoDataModule
from datamodules.digit_bags import DigitBagsDataModule
from datamodules.digit_scenes import DigitScenesDataModule
from datamodules.feature_bags import FeatureBagsDataModule
from datamodules.picture_folder import PictureFolderDataModule
from datamodules.segmentation import SegDataModule
from datamodules.tabular_bags import TabularBagsDataModule
from datamodules.yolo_txt import YoloTxtDataModule

__all__ = [
    "CocoDataModule",
    "DigitBagsDataModule",
    "DigitScenesDataModule",
    "FeatureBagsDataModule",
    "MILDataModule",
    "PictureFolderDataModule",
    "SegDataModule",
    "TabularBagsDataModule",
    "YoloTxtDataModule",
]
