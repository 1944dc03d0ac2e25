"""Light under which a checkpoint is evaluated, and images in the form that it knows."""

import pytest
import torch

from datamodules.seg.digit_scenes import DigitScenesDataModule
from datamodules.transforms.raw.data import LightChange, in_low_light, in_normal_light
from datamodules.transforms.raw.low_light import LowLightOptions

OWN = LowLightOptions(input="raw4", camera="nikon_d850", bits=10)


@pytest.mark.parametrize(
    ("change", "own", "wanted"),
    [
        (LightChange("normal"), None, None),
        (LightChange("dark"), None, LowLightOptions(input="srgb")),
        (LightChange("dark", 30, 8), None, LowLightOptions("srgb", ratio=(30, 30), bits=8)),
        (LightChange("dark"), OWN, OWN),
        (LightChange("normal"), OWN, LowLightOptions("raw4", "nikon_d850", bits=10,
                                                     evaluate="normal")),
        (LightChange("dark", 5, 12), OWN, LowLightOptions("raw4", "nikon_d850", (5, 5), 12)),
    ],
)  # fmt: skip
def test_a_change_of_light(change, own, wanted):
    given = {"scale": 1.0} if own is None else {"low_light": own.record(), "seed": 4}
    assert change.arguments(given) == ({} if wanted is None else {"low_light": wanted})


def test_images_in_the_form_that_a_network_knows():
    data = DigitScenesDataModule(val_scenes=2, eval_batch_size=2, seed=5, low_light=OWN.record())
    plain = next(iter(data.val_dataloader()))
    known = data.evaluation_arguments()
    assert known["seed"] == 5
    assert LowLightOptions.of(known["low_light"]) == OWN
    found = in_normal_light(plain, known)
    assert torch.equal(found.images, in_low_light(plain, OWN, 5, dark=False).images)
    assert found.images.shape == (2, 4, 128, 128)
    without = DigitScenesDataModule().evaluation_arguments()
    assert not {"seed", "low_light"} & set(without)
    assert in_normal_light(plain, without) is plain
