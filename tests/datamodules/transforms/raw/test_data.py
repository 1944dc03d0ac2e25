"""Light under which a checkpoint is evaluated, and images in the form that it knows."""

from types import SimpleNamespace

import pytest
import torch

from datamodules.seg.digit_scenes import DigitScenesDataModule
from datamodules.transforms.raw.data import LightChange, in_low_light, in_normal_light
from datamodules.transforms.raw.low_light import LowLightOptions
from engine.checkpoints.restore import Restored
from engine.deploy import single
from engine.deploy.single import image_batch

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


def test_an_array_is_shown_in_that_form():
    options = LowLightOptions(input="raw4")
    data = DigitScenesDataModule(val_scenes=1, low_light=options)
    image = data.source("val").read(0).image
    known = SimpleNamespace(facts={"preprocessing": data.evaluation_arguments()})
    found = image_batch(image, known).images
    wanted = in_low_light(next(iter(data.val_dataloader())), options, 0, dark=False).images
    assert torch.equal(found, wanted)


def test_a_folder_that_python_predicts_is_shown_in_that_form(tmp_path, monkeypatch):
    options = LowLightOptions()
    data = DigitScenesDataModule(val_scenes=1, low_light=options)
    folder, _ = data.write_split("val", tmp_path)
    facts = {"preprocessing": data.evaluation_arguments(), "categories": {},
             "category_map": data.category_map.to_dict()}  # fmt: skip
    restored = Restored(None, {}, facts, {}, "32-true")
    seen = []
    monkeypatch.setattr(single, "predict_batch", lambda batch, restored: seen.append(batch) or [])
    with pytest.raises(ValueError, match="zip"):  # nothing was found for the image
        list(single.predict_files(folder, restored))
    wanted = in_low_light(next(iter(data.val_dataloader())), options, 0, dark=False).images
    assert torch.equal(seen[0].images, wanted)
