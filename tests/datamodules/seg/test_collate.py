import pytest
import torch

from datamodules.seg.collate import collate_images
from structures import SegBatch


def image(height, width, count, stride=1, number=0):
    generator = torch.Generator().manual_seed(number)
    rows, columns = -(-height // stride), -(-width // stride)
    return SegBatch(
        images=torch.rand(1, 3, height, width, generator=generator) + 0.1,
        sizes=torch.tensor([[height, width]]),
        boxes=torch.rand(count, 4, generator=generator),
        labels=torch.arange(count) + number,
        masks=torch.rand(count, rows, columns, generator=generator) > 0.3,
        counts=torch.tensor([count]),
        crowd=torch.arange(count) % 2 == 1,
        index=torch.tensor([number]),
        original_sizes=torch.tensor([[height * 2, width * 2]]),
        image_ids=(number + 100,),
        mask_stride=stride,
    )


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("multiple", [1, 8])
def test_every_image_comes_back_and_the_rest_is_zero(stride, multiple):
    parts = [
        image(9, 20, 2, stride, 0),
        image(17, 6, 0, stride, 1),
        image(5, 5, 3, stride, 2),
    ]
    batch = collate_images(parts, size_multiple=multiple)
    height, width = (17, 20) if multiple == 1 else (24, 24)
    assert batch.images.shape == (3, 3, height, width)
    assert batch.masks.shape[1:] == (-(-height // stride), -(-width // stride))
    assert batch.image_ids == (100, 101, 102)
    assert batch.index.tolist() == [0, 1, 2]
    assert batch.counts.tolist() == [2, 0, 3]
    assert batch.original_sizes.tolist() == [[18, 40], [34, 12], [10, 10]]
    for n, (part, targets) in enumerate(zip(parts, batch.targets(), strict=True)):
        h, w = part.sizes[0].tolist()
        assert batch.sizes[n].tolist() == [h, w]
        assert torch.equal(batch.images[n, :, :h, :w], part.images[0])
        assert batch.images[n].count_nonzero() == 3 * h * w
        rows, columns = part.masks.shape[1:]
        assert torch.equal(targets.masks[:, :rows, :columns], part.masks)
        assert targets.masks.sum() == part.masks.sum()
        assert torch.equal(targets.boxes, part.boxes)
        assert torch.equal(targets.labels, part.labels)
        assert torch.equal(targets.crowd, part.crowd)


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="empty"):
        collate_images([])
    with pytest.raises(ValueError, match=r"\[1, 4\]"):
        collate_images([image(8, 8, 1), image(8, 8, 1, stride=4)])
