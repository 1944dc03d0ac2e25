"""Small images with discs, as our batch and as torchvision's lists."""

import pytest
import torch

from structures import SegBatch

NUM_CLASSES = 3


def _disc(height, width, x, y, side):
    rows, columns = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
    return (rows - y - side / 2) ** 2 + (columns - x - side / 2) ** 2 < (side / 2) ** 2


def make_scene(sizes, instances=3, seed=0):
    """Return (batch, images, targets); ``instances`` is a number or one number an image."""
    generator = torch.Generator().manual_seed(seed)
    counts = [instances] * len(sizes) if isinstance(instances, int) else list(instances)
    height, width = (max(side) for side in zip(*sizes, strict=True))
    padded = torch.zeros(len(sizes), 3, height, width)
    images, targets, all_masks = [], [], []
    for number, ((h, w), count) in enumerate(zip(sizes, counts, strict=True)):
        image = torch.rand(3, h, w, generator=generator)
        boxes, masks = torch.zeros(count, 4), torch.zeros(count, height, width, dtype=torch.bool)
        for k in range(count):
            side = int(torch.randint(14, 40, (1,), generator=generator))
            x = int(torch.randint(0, w - side, (1,), generator=generator))
            y = int(torch.randint(0, h - side, (1,), generator=generator))
            masks[k] = _disc(height, width, x, y, side)
            image[k % 3][masks[k, :h, :w]] = 1.0
            boxes[k] = torch.tensor([x, y, x + side, y + side])
        labels = torch.randint(0, NUM_CLASSES, (count,), generator=generator)
        padded[number, :, :h, :w] = image
        images.append(image)
        all_masks.append(masks)
        targets.append({"boxes": boxes, "labels": labels + 1, "masks": masks[:, :h, :w].byte()})
    batch = SegBatch(
        images=padded,
        sizes=torch.tensor(sizes),
        boxes=torch.cat([target["boxes"] for target in targets]),
        labels=torch.cat([target["labels"] for target in targets]) - 1,
        masks=torch.cat(all_masks),
        counts=torch.tensor(counts),
        crowd=torch.zeros(sum(counts), dtype=torch.bool),
        index=torch.arange(len(sizes)) + 7,
        original_sizes=torch.tensor(sizes),
        image_ids=tuple(range(100, 100 + len(sizes))),
    )
    return batch, images, targets


@pytest.fixture(scope="session")
def scene():
    return make_scene
