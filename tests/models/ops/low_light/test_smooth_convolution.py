"""SCB against its two branches, before and after folding."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.ops.low_light.smooth_convolution import SmoothConv, fold_smooth_convs

BINOMIAL = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16


def drawn(**options):
    """A layer with random kernels of the branch, so that channels differ."""
    torch.manual_seed(0)
    arguments = {"in_channels": 8, "out_channels": 12, "kernel_size": 3, "padding": 1} | options
    made = SmoothConv(nn.Conv2d(**arguments))
    nn.init.normal_(made.kernel)
    return made


def branches(made, x, kernels=None):
    """The two branches, each a convolution of its own; D may be given."""
    kernels = made.kernel.flatten(1).softmax(1).view_as(made.kernel) if kernels is None else kernels
    stride, dilation = made.stride, made.dilation
    plain = F.conv2d(x, made.weight, made.bias, stride, made.padding, dilation, made.groups)
    smooth = F.conv2d(x, kernels, None, stride, dilation, dilation, groups=len(kernels))
    return plain + F.conv2d(smooth, made.mix.weight, groups=made.mix.groups)


CASES = {
    "plain": {},
    "stride": {"stride": 2},
    "groups": {"groups": 4, "bias": False},
    "dilation": {"dilation": 2, "padding": 2},
    "side of 5": {"kernel_size": 5, "padding": 2, "stride": 2},
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
@torch.no_grad()
def test_folded_and_unfolded_equal_the_branches(options):
    made, x = drawn(**options), torch.randn(2, 8, 9, 11)
    network = nn.Sequential(made, nn.BatchNorm2d(12), nn.ReLU()).eval()
    nn.init.normal_(network[1].running_mean)
    expected = network[2](network[1](branches(made, x)))
    torch.testing.assert_close(network(x), expected, rtol=1e-5, atol=1e-5)
    assert fold_smooth_convs(network) == 1
    assert type(network[0]) is nn.Conv2d
    torch.testing.assert_close(network(x), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_low_pass_filter_belongs_to_the_input_channel():
    """As many outputs as inputs: a fold over the output channel would run, and be wrong."""
    made, x = drawn(out_channels=8), torch.randn(2, 8, 9, 11)
    torch.testing.assert_close(made.folded()(x), branches(made, x), rtol=1e-5, atol=1e-5)
    wrong = made.weight + made.mix.weight * made.low_pass().view(8, 1, 3, 3)
    far = (F.conv2d(x, wrong, made.bias, padding=1) - branches(made, x)).abs().max()
    assert far > 0.1


def test_gradients_are_those_of_the_branches():
    made, x = drawn(stride=2).double(), torch.randn(2, 8, 9, 11).double()
    found = torch.autograd.grad(made(x).square().sum(), list(made.parameters()))
    expected = torch.autograd.grad(branches(made, x).square().sum(), list(made.parameters()))
    torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_a_depthwise_convolution_keeps_a_branch_that_mixes_channels():
    made, x = drawn(out_channels=8, groups=8, kernel_size=7, padding=3), torch.randn(2, 8, 9, 11)
    assert made.mix.weight.shape == (8, 8, 1, 1)
    torch.testing.assert_close(made(x), branches(made, x), rtol=1e-5, atol=1e-5)
    network = nn.Sequential(made)
    assert fold_smooth_convs(network) == 0
    assert network[0] is made
    with pytest.raises(ValueError, match="no fold"):
        made.folded_weight()


def test_initial_kernels():
    conv = nn.Conv2d(2, 2, 3, padding=1)
    torch.testing.assert_close(SmoothConv(conv).low_pass()[1, 0], BINOMIAL)
    box = SmoothConv(conv, init="repo").low_pass()[1, 0]  # softmax of 1/16, 1/8, 1/4
    torch.testing.assert_close(box[0], torch.tensor([0.1057, 0.1125, 0.1057]), rtol=0, atol=5e-5)
    assert box[1, 1].item() == pytest.approx(0.1275, abs=5e-5)
    with pytest.raises(ValueError, match="binomial or repo, got 'box'"):
        SmoothConv(conv, init="box")


def test_the_filter_sums_to_one_after_a_step():
    made = drawn()
    optimizer = torch.optim.SGD(made.parameters(), lr=1.0)
    made(torch.randn(2, 8, 9, 11)).square().mean().backward()
    before = made.low_pass().detach()
    optimizer.step()
    after = made.low_pass()
    assert (after - before).abs().max() > 1e-4
    torch.testing.assert_close(after.sum(dim=(1, 2, 3)), torch.ones(8))
    assert (after > 0).all()


def test_names_of_the_convolution_stay():
    conv = nn.Conv2d(8, 12, 3, padding=1)
    made = SmoothConv(conv)
    assert set(made.state_dict()) == {"weight", "bias", "kernel", "mix.weight"}
    assert made.weight is conv.weight
    network = nn.Sequential(made)
    fold_smooth_convs(network)
    assert set(network.state_dict()) == {"0.weight", "0.bias"}


WRONG = [
    nn.Conv2d(2, 2, 1),
    nn.Conv2d(2, 2, 3),
    nn.Conv2d(2, 2, 3, padding="same"),
    nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"),
]


@pytest.mark.parametrize("conv", WRONG, ids=str)
def test_convolutions_of_another_kind(conv):
    with pytest.raises(ValueError, match="SmoothConv needs"):
        SmoothConv(conv)
