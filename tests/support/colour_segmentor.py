"""Segmentor without a network, to test code that uses segmentors.

Channel 0 of an image is the number of an object / 250, channel 1 its class / 10, and black is
background. The segmentor detects the connected components of one colour in an image, which may be a
tile or a mirrored view, with a score that decreases with the object's number.
"""

from typing import ClassVar

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from structures import Instances, RLEMasks, SegBatch


class ColourSegmentor:
    def __init__(self, max_dets=100, masks=True, quality=False):
        self.max_dets, self.with_masks, self.with_quality = max_dets, masks, quality
        self.shapes, self.batches = [], []

    def losses(self, batch, reduction="mean", key=0):
        raise NotImplementedError

    def predict(self, batch):
        self.batches.append(batch)
        self.shapes += [tuple(batch.images.shape)]
        sizes = zip(batch.images, batch.sizes.tolist(), batch.original_sizes.tolist(), strict=True)
        return [
            self._image(image[:, : size[0], : size[1]], tuple(original))
            for image, size, original in sizes
        ]

    def _image(self, image, original):
        pixels = to_size(image.float().numpy(), original)
        numbers, classes = np.rint(pixels[0] * 250).astype(int), np.rint(pixels[1] * 10)
        masks, labels, scores = [], [], []
        for number in np.unique(numbers[numbers > 0]):
            parts, count = ndimage.label(numbers == number, structure=np.ones((3, 3)))
            for part in range(1, count + 1):
                masks.append(parts == part)
                labels.append(int(classes[masks[-1]][0]))
                scores.append(1 - number / 250)
        masks, labels, scores = (v[: self.max_dets] for v in (masks, labels, scores))
        packed = RLEMasks.from_dense(np.array(masks, dtype=bool).reshape(-1, *original), original)
        return Instances(
            boxes=torch.from_numpy(packed.boxes()),
            scores=torch.tensor(scores),
            labels=torch.tensor(labels, dtype=torch.int64),
            size=original,
            masks=packed if self.with_masks else None,
            quality=torch.tensor(scores) / 2 if self.with_quality else None,
        )


class ColourModel(nn.Module):
    """`ColourSegmentor` as a module that can be trained, saved and named in a recipe."""

    shapes: ClassVar[list] = []  # shapes of the batches that any instance has predicted

    def __init__(self, num_classes: int, max_dets: int = 100):
        super().__init__()
        self.num_classes, self.max_dets = num_classes, max_dets
        self.weight = nn.Parameter(torch.ones(1))

    def losses(self, batch, reduction="mean", key=0):
        return {"none": self.weight.sum() * 0}

    def predict(self, batch):
        self.shapes.append(tuple(batch.images.shape))
        return ColourSegmentor(self.max_dets).predict(batch)


def to_size(pixels, size):
    """Resize a (C, h, w) image by nearest neighbour."""
    rows, columns = (
        (np.arange(new) * 2 + 1) * old // (2 * new)
        for old, new in zip(pixels.shape[1:], size, strict=True)
    )
    return pixels[:, rows[:, None], columns]


def paint(size, shapes):
    """Return a (3, h, w) image of shapes, later ones on top.

    A shape is ("disc", x, y, radius, class) or ("bar", x1, y1, x2, y2, class).
    """
    pixels = torch.zeros(3, *size)
    rows, columns = torch.arange(size[0])[:, None] + 0.5, torch.arange(size[1]) + 0.5
    for number, (kind, *where, label) in enumerate(shapes, start=1):
        if kind == "disc":
            x, y, radius = where
            mask = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
        else:
            x1, y1, x2, y2 = where
            mask = (rows > y1) & (rows < y2) & (columns > x1) & (columns < x2)
        pixels[0][mask], pixels[1][mask] = number / 250, label / 10
    return pixels


def as_batch(frames, originals=None):
    """Return images of different sizes as a batch without targets."""
    sizes = [tuple(pixels.shape[1:]) for pixels in frames]
    height, width = (max(side) for side in zip(*sizes, strict=True))
    images = torch.zeros(len(frames), 3, height, width)
    for image, pixels in zip(images, frames, strict=True):
        image[:, : pixels.shape[1], : pixels.shape[2]] = pixels
    return SegBatch(
        images=images,
        sizes=torch.tensor(sizes),
        boxes=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.int64),
        masks=torch.zeros(0, height, width, dtype=torch.bool),
        counts=torch.zeros(len(frames), dtype=torch.int64),
        crowd=torch.zeros(0, dtype=torch.bool),
        index=torch.arange(len(frames)) + 5,
        original_sizes=torch.tensor(sizes if originals is None else originals),
        image_ids=tuple(range(len(frames))),
    )


def assert_same(found, expected):
    """Assert that two predictions are equal, bit for bit."""
    assert len(found) == len(expected)
    assert found.size == expected.size
    for name in ("scores", "labels", "boxes"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert found.masks.to_coco() == expected.masks.to_coco()
