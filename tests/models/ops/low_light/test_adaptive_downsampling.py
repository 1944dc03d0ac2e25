"""AWD against a naive loop, and what holds for any weights: constants, range, counts."""

import pytest
import torch
import torch.nn.functional as F

from models.ops.low_light.adaptive_downsampling import AdaptiveDownsample


def layer(channels, stride, seed=0):
    """A layer whose norm is not the identity and whose gates are of both signs and large."""
    torch.manual_seed(seed)
    made = AdaptiveDownsample(channels, stride).eval()
    for value in (made.norm.running_mean, made.norm.bias):
        torch.nn.init.normal_(value)
    torch.nn.init.uniform_(made.norm.running_var, 0.5, 2.0)
    torch.nn.init.uniform_(made.gate[0].weight, 0.0, 1.0)
    torch.nn.init.normal_(made.gate[-1].weight, std=20.0)
    return made


def naive(made, x):
    """The formulas, cell by cell."""
    batch, channels, height, width = x.shape
    gate = made.gate(x.mean(dim=(2, 3), keepdim=True))[:, :, 0, 0]
    logits, padded = made.norm(made.logits(x)), F.pad(x, (1, 1, 1, 1), mode="reflect")
    rows, columns = ((side - 1) // made.stride + 1 for side in (height, width))
    out = torch.zeros(batch, channels, rows, columns)
    for b in range(batch):
        for c in range(channels):
            for i in range(rows):
                for j in range(columns):
                    weights = torch.softmax(logits[b, 9 * c : 9 * c + 9, i, j] * gate[b, c], dim=0)
                    y, x0 = made.stride * i, made.stride * j
                    cells = padded[b, c, y : y + 3, x0 : x0 + 3].flatten()
                    out[b, c, i, j] = (weights * cells).sum()
    return out


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(7, 6), (6, 9), (2, 2)])
@torch.no_grad()
def test_equals_a_naive_loop(stride, size):
    made, x = layer(8, stride), torch.rand(2, 8, *size)
    signs = made.gate(x.mean(dim=(2, 3), keepdim=True)).sign()
    assert {-1.0, 1.0} <= set(signs.flatten().tolist())
    torch.testing.assert_close(made(x), naive(made, x), rtol=1e-5, atol=1e-6)
    last = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(made(last), made(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stride", [1, 2])
@torch.no_grad()
def test_constants_stay_up_to_the_border_and_the_range_is_kept(stride):
    made, x = layer(8, stride), torch.randn(2, 8, 9, 8)
    constant = torch.arange(8.0).view(1, 8, 1, 1).expand(2, 8, 9, 8)
    rest = constant[:, :, ::stride, ::stride]
    torch.testing.assert_close(made(constant), rest, rtol=1e-6, atol=1e-6)
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
    high = F.max_pool2d(padded, 3, stride)
    low = -F.max_pool2d(-padded, 3, stride)
    out = made(x)
    assert (out <= high + 1e-5).all()
    assert (out >= low - 1e-5).all()
    mean = F.avg_pool2d(padded, 3, stride)
    assert (out - mean).abs().max() > 0.1 * (high - low).max()  # the weights are not all equal


@pytest.mark.parametrize("stride", [1, 2])
@torch.no_grad()
def test_a_gate_of_zero_is_a_mean(stride):
    made, x = layer(4, stride), torch.randn(1, 4, 5, 7)
    torch.nn.init.zeros_(made.gate[-1].weight)
    mean = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3, stride)
    torch.testing.assert_close(made(x), mean)


@torch.no_grad()
def test_a_single_row_is_filtered_too():
    assert layer(4, 2)(torch.ones(1, 4, 1, 5)).sum() == pytest.approx(12)


def test_parameters():
    with torch.device("meta"):
        counts = {
            width: sum(p.numel() for p in AdaptiveDownsample(width).parameters())
            for width in (256, 512, 1024)
        }
    assert counts == {256: 58_112, 512: 181_760, 1024: 625_664}


def test_every_parameter_learns():
    made = layer(4, 2).train()
    made(torch.randn(2, 4, 6, 6)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in made.parameters())


def test_channels_and_strides_below_one():
    with pytest.raises(ValueError, match="at least 1, got 0 and 2"):
        AdaptiveDownsample(0)
