import pytest
import torch
import torch.nn.functional as F

from models.mil.layers.lenet import LeNetEncoder


def test_equals_the_layers_written_out():
    torch.manual_seed(0)
    encoder = LeNetEncoder(side=9, channels=2, out_features=7)
    first, second, last = (encoder.layers[i] for i in (0, 3, 7))
    images = torch.randn(3, 2, 9, 9)
    hidden = F.max_pool2d(F.conv2d(images, first.weight, first.bias, padding=2).relu(), 2)
    hidden = F.max_pool2d(F.conv2d(hidden, second.weight, second.bias, padding=2).relu(), 2)
    expected = F.linear(hidden.reshape(3, 50 * 2 * 2), last.weight, last.bias).relu()
    torch.testing.assert_close(encoder(images), expected, rtol=0, atol=1e-6)


def test_parameters_are_counted_by_hand():
    encoder = LeNetEncoder(side=28)
    # 5 x 5 kernels: 20 x 26 and 50 x 501; fully connected 50 x 7 x 7 -> 500
    expected = 20 * 26 + 50 * (20 * 25 + 1) + 500 * (50 * 49 + 1)
    assert sum(p.numel() for p in encoder.parameters()) == expected


def test_tiny_images_are_refused():
    with pytest.raises(ValueError, match="at least 4"):
        LeNetEncoder(side=3)
