"""Checks and selection of Instances, Slide and PatchBatch."""

from pathlib import Path

import numpy as np
import pytest
import torch

from structures import Instances, PatchBatch, RLEMasks, Slide


def make_instances():
    dense = np.zeros((3, 4, 5), dtype=bool)
    for k in range(3):
        dense[k, k, : k + 1] = True
    return Instances(
        boxes=torch.arange(12.0).view(3, 4),
        scores=torch.tensor([0.9, 0.5, 0.1]),
        labels=torch.tensor([2, 0, 1]),
        size=(4, 5),
        masks=RLEMasks.from_dense(dense),
        quality=torch.tensor([0.3, 0.2, 0.1]),
    )


@pytest.mark.parametrize("keep", [torch.tensor([2, 0]), torch.tensor([True, False, True])])
def test_select_keeps_all_fields_together(keep):
    chosen = make_instances().select(keep)
    order = [2, 0] if keep.dtype == torch.int64 else [0, 2]
    assert chosen.labels.tolist() == [[2, 0, 1][k] for k in order]
    assert chosen.masks.areas().tolist() == [k + 1 for k in order]
    assert chosen.quality.tolist() == pytest.approx([[0.3, 0.2, 0.1][k] for k in order])


def test_empty_predictions():
    nothing = Instances.empty((4, 5))
    assert len(nothing) == 0
    assert nothing.masks.decode().shape == (0, 4, 5)


def test_fields_that_disagree_are_refused():
    good = make_instances()
    with pytest.raises(ValueError, match="3 boxes but 2 masks"):
        Instances(good.boxes, good.scores, good.labels, (4, 5), good.masks.select([0, 1]))
    with pytest.raises(ValueError, match="masks of size"):
        Instances(good.boxes, good.scores, good.labels, (5, 4), good.masks)
    with pytest.raises(ValueError, match=r"scores must have shape \(3,\)"):
        Instances(good.boxes, good.scores[:2], good.labels, (4, 5))


def test_slide_and_patches_check_their_fields():
    coords = torch.tensor([[0, 0], [224, 0]])
    assert len(Slide(Path("a.svs"), 0.5, coords, 224)) == 2
    with pytest.raises(ValueError, match=r"mpp of a.svs must be positive, got 0"):
        Slide(Path("a.svs"), 0.0, coords, 224)
    with pytest.raises(ValueError, match="patch_size of a.svs"):
        Slide(Path("a.svs"), 0.5, coords, 0)
    assert len(PatchBatch(torch.zeros(2, 3, 8, 8), coords)) == 2
    with pytest.raises(ValueError, match=r"coords must have shape \(3, 2\)"):
        PatchBatch(torch.zeros(3, 3, 8, 8), coords)
    with pytest.raises(ValueError, match=r"images must be float, got torch.int64"):
        PatchBatch(torch.zeros(2, 3, 8, 8).long(), coords)
    bytewise = PatchBatch(torch.full((2, 3, 8, 8), 51, dtype=torch.uint8), coords, "a", 4, 6)
    assert torch.equal(bytewise.pixels(), torch.full((2, 3, 8, 8), 51 / 255))
    assert torch.equal(bytewise.to("cpu").images, bytewise.images)
