"""Dynamic masks: equal to convolutions of single instances, aligned upsampling."""

import pytest
import torch
import torch.nn.functional as F

from models.ops.masks.dynamic import (
    dynamic_masks,
    parameter_count,
    to_cell_centres,
    upsample_aligned,
)


def one_mask(features, parameters, reference, stride):
    """CondInst's three convolutions of one instance; features (C, h, w)."""
    channels, height, width = features.shape
    sizes = ((channels + 2) * 8, 64, 8, 8, 8, 1)
    w1, w2, w3, b1, b2, b3 = parameters.split(sizes)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    x = reference[0] - (columns * stride + stride // 2)
    y = reference[1] - (rows * stride + stride // 2)
    values = torch.cat([torch.stack([x, y]).to(features), features])[None]
    for weight, bias, outputs in ((w1, b1, 8), (w2, b2, 8)):
        values = F.relu(F.conv2d(values, weight.view(outputs, -1, 1, 1), bias))
    return F.conv2d(values, w3.view(1, -1, 1, 1), b3)[0, 0]


@pytest.mark.parametrize("channels", [8, 3])
def test_all_instances_at_once_equal_one_by_one(channels):
    torch.manual_seed(0)
    features = torch.randn(2, channels, 6, 5, dtype=torch.float64, requires_grad=True)
    parameters = torch.randn(2, 4, parameter_count(channels), dtype=torch.float64)
    parameters.requires_grad_()
    references = torch.rand(2, 4, 2, dtype=torch.float64) * 40
    references.requires_grad_()
    found = dynamic_masks(features, parameters, references, 8)
    rows = [
        torch.stack([one_mask(own, p, r, 8) for p, r in zip(ps, rs, strict=True)])
        for own, ps, rs in zip(features, parameters, references, strict=True)
    ]
    expected = torch.stack(rows)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    weights = torch.randn_like(found)
    inputs = (features, parameters, references)
    ours = torch.autograd.grad((found * weights).sum(), inputs)
    theirs = torch.autograd.grad((expected * weights).sum(), inputs)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_far_references_lose_no_precision_that_matters():
    torch.manual_seed(1)
    features, parameters = torch.randn(1, 8, 20, 30), torch.randn(1, 3, 169) * 0.1
    references = torch.tensor([[[0.0, 0.0], [1333.0, 800.0], [400.0, 700.0]]])
    exact = dynamic_masks(features.double(), parameters.double(), references.double(), 8)
    found = dynamic_masks(features, parameters, references, 8)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-4)


def test_no_instance_and_half_precision():
    features = torch.randn(2, 8, 4, 4, requires_grad=True)
    empty = dynamic_masks(features, torch.zeros(2, 0, 169), torch.zeros(2, 0, 2), 8)
    assert upsample_aligned(empty, 2).shape == (2, 0, 8, 8)
    empty.sum().backward()
    assert features.grad.abs().sum() == 0
    with torch.autocast("cpu", torch.bfloat16):
        found = dynamic_masks(features, torch.randn(2, 1, 169), torch.rand(2, 1, 2) * 300, 8)
    assert found.dtype == torch.float32


def test_a_wrong_number_of_parameters_is_refused():
    with pytest.raises(ValueError, match="need 169 parameters per instance, got 168"):
        dynamic_masks(torch.zeros(1, 8, 4, 4), torch.zeros(1, 1, 168), torch.zeros(1, 1, 2), 8)


def test_aligned_upsampling_keeps_each_old_cell():
    maps = torch.randn(2, 3, 4, 5)
    larger = upsample_aligned(maps, 2)
    assert larger.shape == (2, 3, 8, 10)
    torch.testing.assert_close(larger[..., 1::2, 1::2], maps)  # old cell i is new cell 2 i + 1
    torch.testing.assert_close(larger[..., 1::2, 2::2], (maps[..., :-1] + maps[..., 1:]) / 2)
    torch.testing.assert_close(larger[..., 0, :], larger[..., 1, :])  # the border's value
    assert upsample_aligned(maps, 1) is maps


def test_masks_are_resized_to_where_they_were_learnt():
    """A ramp that was read at every fourth pixel from 2 is the ramp again."""
    ramp = torch.arange(40.0).expand(32, 40)
    cells = to_cell_centres(ramp[2::4, 2::4][None, None], 4)
    resized = F.interpolate(cells, scale_factor=4, mode="bilinear")[0, 0]
    inside = slice(8, -8)
    torch.testing.assert_close(resized[inside, inside], ramp[inside, inside])
    down = to_cell_centres(ramp.T[2::4, 2::4][None, None], 4)
    resized = F.interpolate(down, scale_factor=4, mode="bilinear")[0, 0]
    torch.testing.assert_close(resized[inside, inside], ramp.T[inside, inside])
