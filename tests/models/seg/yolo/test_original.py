"""YOLOSeg and its losses against numbers of the original, and the names of its weights.

The numbers were recorded by `benchmarks/parity/yolo_original.py OUT --golden`; weights and inputs
are made again by integer arithmetic.
"""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.parity import yolo_recipe as recipe
from benchmarks.parity.yolo_compare import by_original_names, own_losses
from models.backbones.csp import Scale
from models.seg.yolo import YOLOSeg
from models.seg.yolo.names import convert_name, convert_names, is_original
from tests.support.yolo_original_names import DETECTION_ALONE, original_name

GOLDEN = json.loads((Path(__file__).parent / "data" / "yolo_original.json").read_text())
TINY = Scale(depth=0.33, width=0.0625, max_channels=256)


def original_state(model):
    constants = {"model.22.dfl.conv.weight": torch.arange(16.0).view(1, 16, 1, 1)}
    return constants | {original_name(k): v for k, v in model.state_dict().items()}


def test_the_record_says_where_it_is_from():
    assert GOLDEN["made_by"]["package"] == "ultralytics"
    assert {"version", "torch", "seeds"} <= set(GOLDEN["made_by"])
    assert set(GOLDEN["networks"]) == set(recipe.NETWORKS)
    assert set(GOLDEN["losses"]) == set(GOLDEN["gradients"])
    assert len(GOLDEN["losses"]) == len(recipe.CASES) * len(recipe.SHARPNESS) == 12


def test_random_numbers_are_the_same_everywhere():
    """First numbers of SplitMix64 with seed 0 (Vigna's page), and two moments."""
    first = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert recipe.uniform("", (3,)).tolist() == [(n >> 11) * 2.0**-53 for n in first]
    noise = recipe.normal("key", (200, 500))
    assert abs(float(noise.mean())) < 0.01
    assert float(noise.std()) == pytest.approx(1, abs=0.01)
    assert float(noise.abs().max()) > 4
    assert not torch.equal(noise, recipe.normal("other key", (200, 500)))


@pytest.mark.parametrize("name", recipe.NETWORKS)
def test_raw_outputs_are_the_originals(name):
    model = YOLOSeg(*recipe.NETWORKS[name]).eval()
    with torch.no_grad():
        for key, value in model.state_dict().items():
            value.copy_(recipe.weight(name, key, value))
        found = by_original_names(model(recipe.images()))
    for key, wanted in GOLDEN["networks"][name].items():
        ours = recipe.fingerprint(found[key])
        assert ours["shape"] == wanted["shape"]
        scale = max(map(abs, wanted["samples"]))
        assert ours["samples"] == pytest.approx(wanted["samples"], abs=1e-4 * scale), key
        assert ours["norm"] == pytest.approx(wanted["norm"], rel=1e-4), key
        assert ours["mean"] == pytest.approx(wanted["mean"], abs=1e-4 * scale), key


@pytest.mark.parametrize("sharpness", recipe.SHARPNESS)
@pytest.mark.parametrize("case", recipe.CASES)
def test_loss_terms_and_gradients_are_the_originals(case, sharpness):
    wanted, slopes = (GOLDEN[kind][f"{case}_{sharpness}"] for kind in ("losses", "gradients"))
    terms, gradients = own_losses(case, sharpness)
    assert terms == pytest.approx(wanted, rel=1e-3, abs=1e-3)
    norms = {name: float(gradient.double().norm()) for name, gradient in gradients.items()}
    assert norms == pytest.approx(slopes, rel=1e-3)
    assert (wanted["mask"] > 0) == (slopes["proto"] > 0) == (case != "no_objects")


@pytest.mark.parametrize("scale", ["n", "l"])
def test_every_weight_has_a_name_in_the_original(scale):
    with torch.device("meta"):
        names = list(YOLOSeg(scale, 2).state_dict())
    originals = [original_name(name) for name in names]
    assert len(set(originals)) == len(names)
    assert [convert_name(name) for name in originals] == names
    assert convert_name(originals[0].removeprefix("model.")) == names[0]


@pytest.mark.parametrize(
    "name",
    ["model.22.dfl.conv.weight", "model.10.conv.weight", "model.23.cv2.weight", "head.box", "1"],
)
def test_names_without_a_counterpart(name):
    assert convert_name(name) is None


def test_what_is_named_as_in_the_original():
    assert is_original({"model.0.conv.weight": 1, "22.dfl.conv.weight": 2})
    assert not is_original({"model.0.conv.weight": 1, "backbone.stem.conv.weight": 2})
    assert not is_original({})


@pytest.mark.parametrize("prefix", ["model.", ""])
def test_weights_are_renamed_and_unknown_ones_kept(prefix):
    model = YOLOSeg(TINY, 3)
    given = {k.replace("model.", prefix, 1): v for k, v in original_state(model).items()}
    given[f"{prefix}10.weight"] = torch.ones(1)
    found = convert_names(given, model.state_dict())
    extra = found.pop(f"{prefix}10.weight")
    assert extra.item() == 1
    assert set(found) == set(model.state_dict())
    assert all(found[k] is given[original_name(k).replace("model.", prefix, 1)] for k in found)
    own = {"backbone.stem.conv.weight": torch.ones(1)}
    assert model.convert_weights(own) == own


def test_another_backbone_takes_neck_and_head():
    body = torch.nn.Identity()
    body.feature_channels = (8, 8, 8)
    model = YOLOSeg("n", 3, backbone=body)
    found = model.convert_weights(original_state(YOLOSeg("n", 3)))
    own = model.state_dict()
    same = {k for k in found if k in own and own[k].shape == found[k].shape}
    assert {k for k in own if k.startswith("head.")} <= same
    assert "neck.up5.merge.conv.weight" in same


def test_another_scale_is_named():
    model = YOLOSeg(TINY, 3)
    given, own = original_state(model), model.state_dict()
    own["neck.halve3.conv.weight"] = torch.empty(64, 64, 3, 3)
    for scale, channels in {"s": 128, "m": 192, "l": 256, "x": 320}.items():
        given["model.16.conv.weight"] = torch.empty(channels, 1)
        with pytest.raises(ValueError, match=f"of scale {scale}, the model is of n: give the mod"):
            convert_names(given, own)
    with pytest.raises(ValueError, match=r"of scale x, the model is of another width \(16 chan"):
        model.convert_weights(given)


def test_other_networks_are_told_apart():
    model = YOLOSeg(TINY, 3)
    state = original_state(model)
    later = {k.replace("model.22.", "model.23."): v for k, v in state.items()}
    with pytest.raises(ValueError, match=r"numbered to 23, those of YOLOv8-seg to 22"):
        model.convert_weights(later)
    fused = {k: v for k, v in state.items() if ".bn." not in k}
    with pytest.raises(ValueError, match=r"no batch norms: the network was fused"):
        model.convert_weights(fused)
    detection = {k: v for k, v in state.items() if not k.startswith(DETECTION_ALONE)}
    missing = set(model.state_dict()) - set(model.convert_weights(detection))
    assert {name.split(".")[1] for name in missing} == {"coefficients", "prototypes"}
    partial = {k: v for k, v in state.items() if not k.startswith("model.16.")}
    assert "neck.halve3.conv.weight" not in model.convert_weights(partial)
    scalar = state | {"model.16.conv.weight": torch.tensor(1.0)}
    assert model.convert_weights(scalar)["neck.halve3.conv.weight"].ndim == 0
