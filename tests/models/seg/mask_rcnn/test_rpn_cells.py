"""The head at single anchors equals the head on whole maps, and so do its gradients."""

import pytest
import torch
from torchvision.models.detection.rpn import RPNHead

from models.seg.mask_rcnn.rpn import _by_anchor
from models.seg.mask_rcnn.rpn_cells import head_at_anchors

SIZES = [(7, 9), (4, 5), (1, 2)]


def build(depth, dtype=torch.float64):
    torch.manual_seed(depth)
    head = RPNHead(6, 3, conv_depth=depth).to(dtype)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    features = [torch.randn(2, 6, *size, dtype=dtype, requires_grad=True) for size in SIZES]
    return head, features


def on_whole_maps(head, features):
    logits, code = head(features)
    return (
        torch.cat([_by_anchor(level, 1) for level in logits], dim=1)[..., 0],
        torch.cat([_by_anchor(level, 4) for level in code], dim=1),
    )


def gradients(outputs, wanted):
    weights = [torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view_as(x) for x in outputs]
    return torch.autograd.grad(
        sum((x * w).sum() for x, w in zip(outputs, weights, strict=True)), wanted
    )


@pytest.mark.parametrize("depth", [1, 2])
def test_every_anchor_forward_and_backward(depth):
    head, features = build(depth)
    dense = on_whole_maps(head, features)
    total = dense[0].shape[1]
    assert total == 3 * sum(h * w for h, w in SIZES)
    order = torch.randperm(2 * total)
    image, anchor = order // total, order % total
    sparse = head_at_anchors(head, features, image, anchor)
    chosen = [x.flatten(0, 1)[order] for x in dense]
    torch.testing.assert_close(sparse, tuple(chosen))
    parameters = [*features, *head.parameters()]
    torch.testing.assert_close(gradients(sparse, parameters), gradients(chosen, parameters))


def test_no_anchor_still_reaches_every_parameter():
    head, features = build(1)
    none = torch.zeros(0, dtype=torch.long)
    outputs = head_at_anchors(head, features, none, none)
    assert [x.shape for x in outputs] == [(0,), (0, 4)]
    assert all(g.eq(0).all() for g in gradients(outputs, [*features, *head.parameters()]))


def test_half_precision_after_a_pass_without_gradients():
    """Autocast keeps converted weights; those of the pass without gradients must not be used."""
    head, features = build(1, torch.float32)
    place = torch.arange(9)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            dense = on_whole_maps(head, features)
        sparse = head_at_anchors(head, features, place % 2, place * 8)
    for a, b in zip(sparse, dense, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b[place % 2, place * 8], rtol=0.05, atol=0.1)
    assert all(g.abs().sum() > 0 for g in gradients(sparse, list(head.parameters())))
