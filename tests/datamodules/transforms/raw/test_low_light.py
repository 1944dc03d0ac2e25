"""The option `low_light`: views of a batch, what they depend on, and the quirks of `compat`."""

import pytest
import torch

from datamodules.transforms.raw.low_light import LowLightOptions, low_light_views, sample_keys
from tests.support.pretend_device import DEVICE, pretend_device

SIZES = torch.tensor([[37, 50], [64, 64], [20, 31]])
FORMS = [
    LowLightOptions(),
    LowLightOptions(input="raw4", bits=10),
    LowLightOptions(input="srgb"),
    LowLightOptions(physics="compat"),
]


def padded_batch():
    images = torch.randint(256, (3, 3, 64, 64), generator=torch.Generator().manual_seed(0)) / 255
    for image, (height, width) in zip(images, SIZES.tolist(), strict=True):
        image[:, height:] = 0
        image[..., width:] = 0
    return images


@pytest.mark.parametrize("options", FORMS, ids=lambda o: f"{o.input} {o.physics}")
def test_a_view_depends_on_the_image_and_its_key_alone(options):
    images, keys = padded_batch(), torch.tensor([3, 4, 5])
    together = low_light_views(images, SIZES, keys, options, normal=True)
    for place, (height, width) in enumerate(SIZES.tolist()):
        one = images[place, None, :, :height, :width]
        key, size = keys[place, None], SIZES[place, None]
        alone = low_light_views(one, size, key, options, normal=True)
        for view, single in zip(together, alone, strict=True):
            assert view.shape == (3, options.channels, 64, 64)
            torch.testing.assert_close(
                view[place, :, :height, :width], single[0], atol=1e-6, rtol=1e-5
            )
            assert not view[place, :, height:].any()
            assert not view[place, :, :, width:].any()
    assert not torch.equal(together.dark, together.normal)


@pytest.mark.parametrize("options", FORMS, ids=lambda o: f"{o.input} {o.physics}")
def test_a_device_without_double_precision_gives_the_same(options):
    images, keys = padded_batch(), torch.tensor([3, 4, 5])
    wanted = low_light_views(images, SIZES, keys, options, normal=True)
    with pretend_device():
        there = [value.to(DEVICE) for value in (images, SIZES, keys)]
        found = low_light_views(*there, options, normal=True)
        back = [view.to("cpu") for view in found]
    for view, one in zip(back, wanted, strict=True):
        assert ((view - one).abs() > 1e-4).float().mean() < 1e-3


def test_the_batch_is_left_as_it_was():
    images = padded_batch()
    low_light_views(images, SIZES, torch.arange(3), LowLightOptions(), normal=True)
    assert torch.equal(images, padded_batch())


def test_brightness_is_restored_in_raw_and_not_in_srgb():
    images, sizes = torch.full((1, 3, 64, 64), 0.5), torch.tensor([[64, 64]])
    for form, darker in (("raw3", False), ("raw4", False), ("srgb", True)):
        options = LowLightOptions(input=form, ratio=(30.0, 30.0))
        dark, normal = low_light_views(images, sizes, torch.tensor([1]), options, normal=True)
        factor = (dark.mean() / normal.mean()).item()
        assert factor < 0.4 if darker else factor == pytest.approx(1, abs=0.1)
    assert normal.mean().item() == pytest.approx(0.5, abs=0.01)  # a camera's image of grey


def test_keys_separate_seeds_epochs_images_and_evaluation():
    index = torch.arange(50)
    drawn = [sample_keys(seed, index, epoch) for seed in (0, 1, 2) for epoch in (None, 0, 1, 2)]
    assert len(torch.cat(drawn).unique()) == 50 * len(drawn)
    assert torch.equal(sample_keys(3, index, 4), sample_keys(3, index, 4))
    assert sample_keys(3, index[7:8], 4) == sample_keys(3, index, 4)[7]


def grey(options):
    """A grey image without noise but that of rounding, (C, 32, 32) in DN of the dark exposure."""
    images, size = torch.full((1, 3, 32, 32), 128 / 255), torch.tensor([[32, 32]])
    return low_light_views(images, size, torch.tensor([1]), options).dark[0]


def test_quirk_one_rounding_error_for_the_whole_image():
    from datamodules.transforms.raw.noise import Noise, add_noise

    off = Noise(*(torch.tensor([v]) for v in (0.0, 0.1, 0.0, 0.0, 10.0)))
    raw, key = torch.full((1, 4, 9, 9), 0.25), torch.tensor([2])
    one = add_noise(raw, off, key, one_rounding=True)
    assert one.unique().numel() == 1
    assert 0 < (one - raw).abs().max() < 0.5 * 10 / 15871
    assert add_noise(raw, off, key).unique().numel() > 100


def test_quirk_8_bits():
    levels = grey(LowLightOptions(physics="compat")) * 255
    torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
    levels = grey(LowLightOptions()) * 255
    assert (levels - levels.round()).abs().max() > 0.3


@pytest.mark.parametrize(("physics", "place"), [("corrected", 0), ("compat", 2)])
def test_quirk_red_and_blue_are_exchanged(physics, place):
    images = torch.zeros(1, 3, 32, 32)
    images[:, 0] = 1  # pure red
    options = LowLightOptions(physics=physics)
    found = low_light_views(images, torch.tensor([[32, 32]]), torch.tensor([1]), options)
    assert found.dark[0].mean((1, 2)).argmax() == place


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"input": "raw5"}, "low_light.input is one of raw3, raw4, srgb, got 'raw5'"),
        ({"camera": "phone"}, "low_light.camera is one of canon_5d4, .* got 'phone'"),
        ({"bits": 7}, "low_light.bits .* from 8 to 14, .* got 7"),
        ({"ratio": (0.5, 3)}, r"low_light.ratio .* at least 1 .* got \[0.5, 3\]"),
        ({"ratio": (100, 10)}, r"low_light.ratio .* not falling, .* got \[100, 10\]"),
        ({"ratio": (float("nan"), 10)}, "low_light.ratio"),
        ({"physics": "none"}, "low_light.physics is one of corrected, compat"),
        ({"evaluate": "both"}, "low_light.evaluate is one of dark, normal"),
        ({"physics": "compat", "input": "srgb"}, "compat .* needs input raw3, got srgb"),
    ],
)
def test_wrong_options(wrong, message):
    with pytest.raises(ValueError, match=message):
        LowLightOptions(**wrong)


def test_a_record_gives_the_options_back():
    options = LowLightOptions(input="raw4", ratio=(2.0, 5.0), bits=9, clean=True)
    assert LowLightOptions.of(options.record()) == options
    assert LowLightOptions.of(None) is None
