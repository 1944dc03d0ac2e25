import pytest

from datamodules.seg.mosaic_options import MosaicOptions


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 0},
        {"probability": 1.1},
        {"close_epochs": -1},
        {"window": 0},
        {"translate": -0.1},
        {"scale": 1.0},
        {"degrees": 181},
        {"shear": 70},
        {"perspective": -1e-4},
        {"perspective": 1 / 1920},
        {"hsv": (0.6, 0, 0)},
        {"hsv": (0, 0, -0.1)},
        {"hsv": (0.1, 0.1)},
        {"flip": 2},
        {"flip_vertical": float("nan")},
        {"mixup": -1},
        {"copy_paste": 1.5},
        {"min_side": -1},
        {"min_visible": 1.01},
    ],
)
def test_mistakes_name_the_option_and_what_is_allowed(wrong):
    name = next(iter(wrong))
    with pytest.raises(ValueError, match=rf"mosaic\.{name} must be .*, got"):
        MosaicOptions(**wrong)


def test_defaults_are_those_of_the_recipe():
    options = MosaicOptions()
    assert (options.size, options.probability, options.close_epochs) == (640, 1.0, 10)
    assert (options.translate, options.scale, options.flip) == (0.1, 0.5, 0.5)
    assert options.hsv == (0.015, 0.7, 0.4)
    off = ("degrees", "shear", "perspective", "flip_vertical", "mixup", "copy_paste")
    assert not any(getattr(options, name) for name in off)


def test_a_side_may_be_too_large_for_the_perspective():
    options = MosaicOptions(size=320, perspective=0.001)
    options.check_side(333)
    with pytest.raises(ValueError, match="0.00083 for 400 px"):
        options.check_side(400)
