"""Mask loss in windows against whole maps multiplied and cropped."""

import pytest
import torch
import torch.nn.functional as F

from models.ops.masks import prototype_masks
from models.ops.masks.prototype_masks import window_mask_losses
from models.ops.masks.windows import MaskWindows, mask_windows


def random_case(seed, dtype=torch.float64, batch=2, size=(24, 20), objects=7, channels=5):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(objects, 2, generator=generator) * torch.tensor([60.0, 76.0])
    boxes = torch.cat([corner, corner + 2 + torch.rand(objects, 2, generator=generator) * 60], 1)
    images = torch.arange(objects) * batch // objects
    masks = torch.rand(objects, *size, generator=generator) < 0.5
    shape = (batch, *size)
    windows = mask_windows(boxes, images, masks, torch.arange(objects), shape, 4, 4, False)
    counts = torch.randint(0, 6, (objects,), generator=generator)
    counts[1] = 0
    owner = torch.arange(objects).repeat_interleave(counts)
    draw = {"generator": generator, "dtype": dtype}
    coefficients = torch.randn(len(owner), channels, **draw).requires_grad_()
    prototypes = torch.randn(batch, channels, *size, **draw).requires_grad_()
    return coefficients, prototypes, owner, windows, (boxes, images, masks)


def plain(coefficients, prototypes, owner, boxes, images, masks):
    maps = torch.einsum("pe,pehw->phw", coefficients, prototypes[images[owner]])
    targets = masks[owner].to(maps.dtype)
    loss = F.binary_cross_entropy_with_logits(maps, targets, reduction="none")
    y, x = torch.arange(masks.shape[1])[:, None] * 4, torch.arange(masks.shape[2]) * 4
    x1, y1, x2, y2 = boxes[owner][:, :, None, None].unbind(1)
    return (loss * ((x >= x1) & (x < x2) & (y >= y1) & (y < y2))).sum(dim=(1, 2))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("tile", "chunk"), [(32, 1 << 21), (3, 1)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_as_whole_maps_with_gradients(monkeypatch, seed, tile, chunk, dtype, tolerance):
    monkeypatch.setattr(prototype_masks, "_TILE", tile)
    monkeypatch.setattr(prototype_masks, "_CHUNK", chunk)
    coefficients, prototypes, owner, windows, truth = random_case(seed, dtype)
    ours = window_mask_losses(coefficients, prototypes, owner, windows)
    theirs = plain(coefficients, prototypes, owner, *truth)
    close = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close(ours, theirs, **close)
    weights = torch.rand(len(owner), generator=torch.Generator().manual_seed(9)).to(dtype)
    inputs = (coefficients, prototypes)
    for one, other in zip(
        torch.autograd.grad((ours * weights).sum(), inputs),
        torch.autograd.grad((theirs * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other, **close)


def test_gradient():
    coefficients, prototypes, owner, windows, _ = random_case(1, size=(5, 4), channels=2)
    assert torch.autograd.gradcheck(
        lambda c, p: window_mask_losses(c, p, owner, windows), (coefficients, prototypes)
    )


def test_one_input_without_gradient_and_none():
    coefficients, prototypes, owner, windows, _ = random_case(0)
    both = torch.autograd.grad(
        window_mask_losses(coefficients, prototypes, owner, windows).sum(),
        (coefficients, prototypes),
    )
    fixed = window_mask_losses(coefficients, prototypes.detach(), owner, windows)
    assert torch.equal(torch.autograd.grad(fixed.sum(), coefficients)[0], both[0])
    fixed = window_mask_losses(coefficients.detach(), prototypes, owner, windows)
    assert torch.equal(torch.autograd.grad(fixed.sum(), prototypes)[0], both[1])
    with torch.no_grad():
        assert torch.equal(window_mask_losses(coefficients, prototypes, owner, windows), fixed)


def test_large_logits_stay_finite():
    """BCE of logit z with target 1 is -z for z far below 0, with derivative -1."""
    windows = MaskWindows(torch.tensor([0]), torch.tensor([True]), torch.tensor([0, 1]))
    coefficient = torch.tensor([[-1.0]], requires_grad=True)
    prototype = torch.full((1, 1, 1, 1), 3e4)
    loss = window_mask_losses(coefficient, prototype, torch.tensor([0]), windows)
    loss.sum().backward()
    assert (loss.item(), coefficient.grad.item()) == (3e4, -3e4)


def test_nothing_to_learn_gives_zero_gradients():
    coefficients, prototypes, owner, windows, _ = random_case(0)
    none = window_mask_losses(coefficients[:0], prototypes, owner[:0], windows)
    assert none.shape == (0,)
    by_coefficient, by_prototype = torch.autograd.grad(none.sum(), (coefficients, prototypes))
    assert by_coefficient.eq(0).all()
    assert by_prototype.eq(0).all()
    empty = MaskWindows(owner[:0], owner[:0].bool(), torch.tensor([0, 0]))
    zero = window_mask_losses(coefficients[:2], prototypes, torch.tensor([0, 0]), empty)
    assert zero.tolist() == [0.0, 0.0]
    nobody = MaskWindows(owner[:0], owner[:0].bool(), torch.tensor([0]))
    assert window_mask_losses(coefficients[:0], prototypes, owner[:0], nobody).shape == (0,)


def test_a_second_derivative_is_refused():
    coefficients, prototypes, owner, windows, _ = random_case(0)
    losses = window_mask_losses(coefficients, prototypes, owner, windows)
    (first,) = torch.autograd.grad(losses.square().sum(), coefficients, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_autocast_and_half_precision_compute_in_float32():
    coefficients, prototypes, owner, windows, _ = random_case(2, torch.float32)
    expected = window_mask_losses(coefficients, prototypes, owner, windows)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(window_mask_losses(coefficients, prototypes, owner, windows), expected)
    coefficients, prototypes = coefficients.detach().half(), prototypes.detach().half()
    coefficients.requires_grad_()
    prototypes.requires_grad_()
    half = window_mask_losses(coefficients, prototypes, owner, windows)
    wide = window_mask_losses(coefficients.float(), prototypes.float(), owner, windows)
    assert torch.equal(half, wide)
    half.sum().backward()
    assert coefficients.grad.dtype == prototypes.grad.dtype == torch.float16


def test_whole_maps_are_never_made():
    """500 positives of small windows on a map of 160 x 160: 13 million cells the plain way."""
    boxes = torch.tensor([[8.0, 8, 40, 40]]).expand(50, 4)
    zero = torch.zeros(50, dtype=torch.int64)
    masks = torch.zeros(1, 160, 160, dtype=torch.bool)
    windows = mask_windows(boxes, zero, masks, zero, (1, 160, 160), 4, 4, False)
    owner = torch.arange(50).repeat_interleave(10)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            nonlocal largest
            if isinstance(result, torch.Tensor):
                largest = max(largest, result.numel())
            return result

    coefficients = torch.randn(500, 32, requires_grad=True)
    prototypes = torch.randn(1, 32, 160, 160, requires_grad=True)
    with Watch():
        window_mask_losses(coefficients, prototypes, owner, windows).sum().backward()
    assert largest == prototypes.numel()
