"""Segmentor without a network that finds bright objects, and scenes with a COCO file for it.

Its AP depends on the pixels: noise, blur and brightness change what is found.
"""

import json
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import nn

from structures import Instances, RLEMasks
from tests.support.colour_segmentor import to_size
from tests.support.tiny_checkpoints import write_checkpoint

CATEGORY = {"id": 3, "name": "2"}  # of the ten digits, whose ids begin at 1
SIZES = ((64, 80), (48, 66), (57, 49))  # (height, width)


class BrightObjects(nn.Module):
    """Finds the connected parts of an image that are brighter than a threshold.

    The score of a part is its mean brightness; its label is that of `CATEGORY`.
    """

    predicted: ClassVar[list] = []  # ids of all images that any instance has predicted

    def __init__(self, num_classes: int, max_dets: int = 100, threshold: float = 0.5):
        super().__init__()
        self.num_classes, self.max_dets, self.threshold = num_classes, max_dets, threshold
        self.weight = nn.Parameter(torch.ones(1))

    def losses(self, batch, reduction="mean", key=0):
        return {"none": self.weight.sum() * 0}

    def predict(self, batch):
        self.predicted.extend(batch.image_ids)
        sizes = zip(batch.images, batch.sizes.tolist(), batch.original_sizes.tolist(), strict=True)
        return [
            self._image(image[:, : size[0], : size[1]].float().numpy(), tuple(original))
            for image, size, original in sizes
        ]

    def _image(self, image, original):
        grey = to_size(image, original).mean(axis=0)
        parts, count = ndimage.label(grey > self.threshold)
        masks = np.array([parts == part for part in range(1, count + 1)], dtype=bool)
        masks = masks.reshape(-1, *original)[: self.max_dets]
        packed = RLEMasks.from_dense(masks, original)
        return Instances(
            boxes=torch.from_numpy(packed.boxes()),
            scores=torch.tensor([float(grey[mask].mean()) for mask in masks]),
            labels=torch.full((len(masks),), CATEGORY["id"] - 1),
            size=original,
            masks=packed,
        )


def write_bright(path, **options):
    """Write a checkpoint of `BrightObjects` that was validated on slightly enlarged images."""
    place = f"{BrightObjects.__module__}.{BrightObjects.__qualname__}"
    model = {"class_path": place, "init_args": options}
    return write_checkpoint(path, model, preprocessing={"scale": 1.25})


def write_scenes(folder, sizes=SIZES):
    """Write scenes of bright rectangles on a darker ground; return the annotation file."""
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for number, (height, width) in enumerate(sizes):
        random = np.random.default_rng(number)
        ground = np.linspace(0, 90, width)[None, :, None] * np.ones((height, 1, 3))
        for _ in range(5):
            x, y = random.integers(0, width - 12), random.integers(0, height - 12)
            w, h = random.integers(5, 12, 2)
            ground[y : y + h, x : x + w] = random.integers(140, 250)
            box = [int(v) for v in (x, y, w, h)]
            outline = [x, y, x + w, y, x + w, y + h, x, y + h]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 40 + number,
                    "category_id": CATEGORY["id"],
                    "bbox": box,
                    "area": box[2] * box[3],
                    "segmentation": [[int(v) for v in outline]],
                    "iscrowd": 0,
                }
            )
        name = f"scene{number}.png"
        Image.fromarray(ground.astype(np.uint8)).save(folder / "images" / name)
        images.append({"id": 40 + number, "file_name": name, "height": height, "width": width})
    file = folder / "truth.json"
    content = {"images": images, "annotations": annotations, "categories": [CATEGORY]}
    file.write_text(json.dumps(content))
    return file
