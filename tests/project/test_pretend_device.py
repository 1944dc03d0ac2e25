"""The pretended device minds the rules of a real one; otherwise what runs on it shows nothing."""

import pytest
import torch
from torch import nn

from tests.support.pretend_device import DEVICE, OnDevice, pretend_device


@pytest.fixture
def waits():
    with pretend_device() as counted:
        yield counted


def test_what_is_made_there_is_there(waits):
    x = torch.arange(6.0, device="mps").view(2, 3)
    places = [x, x.new_zeros(2), torch.zeros_like(x), x + 1, x[0], x.new_tensor([1.0])]
    places += [torch.tensor([1, 2], device=x.device), torch.as_tensor([1.0], device="mps")]
    assert all(type(p) is OnDevice and p.device == DEVICE for p in places)
    assert type(x.cpu()) is torch.Tensor
    assert x.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x, h: x + h,
        lambda x, h: h + x,
        lambda x, h: torch.cat([x, h]),
        lambda x, h: torch.stack([x[0], h[0]]),
        lambda x, h: x.index_select(0, h[0].long()),
        lambda x, h: h[x.long()],
        lambda x, h: x.index_put((x.long(),), h),
        lambda x, h: x.index_add(0, torch.arange(3), h),
        lambda x, h: torch.where(x > 0, x, h),
        lambda x, h: nn.functional.linear(x, h.view(1, 3)),
    ],
)
def test_tensors_of_the_host_are_refused_beside_its_own(wrong, waits):
    x, host = torch.arange(3.0, device="mps"), torch.arange(3.0)
    with pytest.raises(RuntimeError, match="on the device"):
        wrong(x, host)


def test_what_a_real_device_takes_from_the_host(waits):
    x = torch.arange(3.0, device="mps")
    assert (x + torch.tensor(1.0)).tolist() == [1, 2, 3]
    assert x[torch.tensor([2, 0])].tolist() == [2, 0]
    x[torch.tensor([True, False, True])] = 5.0
    assert x.tolist() == [5, 1, 5]
    assert torch.zeros(3).copy_(x).tolist() == [5, 1, 5]
    assert x.copy_(torch.ones(3)).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: x.double(),
        lambda x: torch.zeros(2, dtype=torch.float64, device=x.device),
        lambda x: x.numpy(),
        lambda x: x.cpu().double().to(x.device),
        lambda x: x.to("cpu", torch.float64),  # one copy, which would need it on the device
        lambda x: torch.zeros(2, dtype=torch.float64).copy_(x),
    ],
)
def test_neither_float64_nor_numpy(wrong, waits):
    with pytest.raises(TypeError):
        wrong(torch.ones(2, device="mps"))


def test_another_device_has_float64():
    with pretend_device(float64=True):
        assert torch.ones(2, device="mps").double().dtype == torch.float64


@torch.inference_mode()
def test_in_inference_mode_too(waits):
    x = torch.arange(3.0).to("mps")
    assert x.to(x.device, torch.float16).tolist() == [0, 1, 2]
    assert type(x.to("cpu", torch.int64)) is torch.Tensor
    with pytest.raises(RuntimeError, match="on the device"):
        nn.functional.linear(x, torch.ones(1, 3))


@pytest.mark.parametrize(
    ("wait", "count"),
    [
        (lambda x: float(x.sum()), 1),
        (lambda x: bool((x > 0).any()), 1),
        (lambda x: x.tolist(), 1),
        (lambda x: x.to("cpu"), 1),
        (lambda x: x[x > 1], 1),
        (lambda x: (x > 1).nonzero(), 1),
        (lambda x: x.repeat_interleave(x.long()), 1),
        (lambda x: x.repeat_interleave(x.long(), output_size=3), 0),
        (lambda x: x[x.long()].sort().values.cumsum(0), 0),
        (lambda x: x.masked_fill(x > 1, 0.0), 0),
        (lambda x: torch.tensor([1.0]).to(x.device), 1),
        (lambda x: torch.tensor([1.0]).to(x.device, non_blocking=True), 0),
        (lambda x: torch.tensor(1.0, device=x.device), 1),
        (lambda x: torch.full((), 1.0, device=x.device), 0),
    ],
)
def test_what_makes_the_host_wait_is_counted(wait, count, waits):
    x = torch.arange(3.0, device="mps")
    waits.clear()
    wait(x)
    assert sum(waits.values()) == count, waits


def test_a_network_learns_there_as_on_the_host():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 1, 3))
    images, start = torch.randn(2, 1, 8, 8), network.state_dict()
    start = {name: value.clone() for name, value in start.items()}

    def trained(device):
        network.load_state_dict(start)
        optimizer = torch.optim.SGD(network.to(device).parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            network(images.to(device)).square().mean().backward()
            optimizer.step()
        assert all(p.device == torch.device(device) for p in network.parameters())
        return {name: value.cpu().clone() for name, value in network.state_dict().items()}

    expected = trained("cpu")
    with pretend_device():
        found = trained("mps:0")
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
