"""What happens to a picture between its file and the batch."""

from datamodules.transforms.augment import Augmentation
from datamodules.transforms.label_maps import LabelMaps
from datamodules.transforms.resize import resize_maps, resize_picture, target_size

__all__ = ["Augmentation", "LabelMaps", "resize_maps", "resize_picture", "target_size"]
