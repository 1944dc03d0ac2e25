"""Public weight files, by the names and shapes they have on disk, in the models they start."""

import argparse

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet101

from formats.weights.files import load_weights
from models.backbones.csp import CSPBackbone
from models.backbones.low_light import LowPassOptions
from models.backbones.resnet_fpn import ResNet50FPN
from models.backbones.timm_features import TimmFeatures
from models.backbones.timm_fpn import TimmFPN
from models.seg.mask_rcnn import MaskRCNN, MaskRCNNResNet50FPN, MaskRCNNResNet50FPNV2
from models.seg.yolo import YOLOSeg
from tests.support.published_weights import random_weights
from tests.support.yolo_original_names import original_name

LOW = LowPassOptions()
MODELS = {
    "v1": lambda: MaskRCNNResNet50FPN(80, trainable_stages=3),
    "v2": lambda: MaskRCNNResNet50FPNV2(3),
    "atto": lambda: MaskRCNN(3, TimmFPN("convnext_atto", 16)),
    "yolo": lambda: YOLOSeg("n", 3, backbone=TimmFeatures("resnet18", "frozen_bn")),
    "two levels": lambda: MaskRCNN(3, TimmFPN("resnet18", 16, (4, 8))),
    "v1 low": lambda: MaskRCNN(80, ResNet50FPN(trainable_stages=3, low_pass=LOW)),
    "atto low": lambda: MaskRCNN(3, TimmFPN("convnext_atto", 16, low_pass=LOW)),
    "yolo low": lambda: YOLOSeg(
        "n", 3, backbone=TimmFeatures("resnet18", "frozen_bn", low_pass=LOW)
    ),
}


def written(kind, folder):
    weights, safe = random_weights(kind), kind.startswith("timm")
    path = folder / f"{kind}.{'safetensors' if safe else 'pth'}"
    (save_file if safe else torch.save)(weights, path)
    return path, weights


@pytest.mark.parametrize(
    ("kind", "model", "counts", "pair"),
    [
        ("resnet50_v1", "v1", (265, 42, 2), ("layer3.5.bn2.running_var", "")),
        ("resnet50_v2", "v2", (318, 98, 2), ("conv1.weight", "")),
        ("maskrcnn_v1", "v1", (307, 0, 0), ("rpn.head.conv.bias", "rpn.head.conv.0.0.bias")),
        pytest.param(
            "maskrcnn_v2",
            "v2",
            (426, 6, 6),
            ("rpn.head.conv.1.0.bias", "rpn.head.conv.1.0.bias"),
            marks=pytest.mark.slow,
        ),
        ("timm_convnext_atto", "atto", (124, 42, 4), ("stages.3.blocks.1.norm.bias", "stages_3.")),
        ("timm_resnet18", "yolo", (100, 225, 2), ("layer4.1.conv2.weight", "")),
        ("timm_resnet18", "two levels", (60, 34, 52), ("layer2.1.bn2.bias", "")),
        # new: two for each of 13, 12, 16 branches; 5, or 7 with a batch norm, for each filter
        ("resnet50_v1", "v1 low", (265, 42 + 26 + 15, 2), ("layer3.5.conv2.weight", "")),
        (
            "timm_convnext_atto",
            "atto low",
            (124, 42 + 24 + 21, 4),
            ("stages.3.blocks.1.conv_dw.weight", "stages_3."),
        ),
        ("timm_resnet18", "yolo low", (100, 225 + 32 + 15, 2), ("layer4.1.conv2.weight", "")),
    ],
)
def test_counts_of_loaded_new_and_unused_tensors(kind, model, counts, pair, tmp_path):
    path, weights = written(kind, tmp_path)
    network = MODELS[model]()
    report = load_weights(network, path)
    loaded, new, unused = counts
    assert (report.loaded, report.new, report.unused) == counts
    assert f"{loaded} tensors loaded from {path}, {new} new (initial values), {unused} unused" in (
        str(report)
    )
    assert "recognised: " in str(report)
    theirs, ours = pair
    ours = f"backbone.body.{theirs.replace('stages.3.', ours)}" if "rpn" not in ours else ours
    assert torch.equal(network.state_dict()[ours], weights[theirs])


@pytest.mark.slow
def test_a_backbone_that_does_not_fit_is_an_error(tmp_path):
    path, weights = written("resnet50_v1", tmp_path)
    half = {k: v for k, v in weights.items() if "layer3" not in k}
    torch.save(half, tmp_path / "half.pth")
    with torch.device("meta"):
        deeper = resnet101().state_dict()
    deeper = {k: torch.zeros(v.shape) for k, v in deeper.items()}
    torch.save(deeper, tmp_path / "deeper.pth")
    network = MODELS["v1"]()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    for name, message in (
        ("half", r"only 170 of the 265 tensors of the model's backbone fit"),
        ("deeper", r"only \d+ of the 312 tensors of the file's backbone fit"),
    ):
        with pytest.raises(ValueError, match=message):
            load_weights(network, tmp_path / f"{name}.pth")
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    with pytest.raises(ValueError, match="nothing in this file fits"):
        load_weights(YOLOSeg("n", 3), path)


def test_a_file_of_the_other_version_names_its_recipe(tmp_path):
    path, _ = written("maskrcnn_v2", tmp_path)
    with pytest.raises(ValueError, match=r"version 2, .* use configs/seg/mask_rcnn_v2.yaml"):
        load_weights(MODELS["v1"](), path)


def test_group_norms_take_the_weights_of_batch_norms(tmp_path):
    path, _ = written("timm_resnet18", tmp_path)
    report = load_weights(MaskRCNN(3, TimmFPN("resnet18", 16, norm="gn")), path)
    assert (report.loaded, report.unused) == (60, 42)


def test_what_trainers_save_beside_the_weights(tmp_path):
    source = nn.Linear(3, 2)
    weights, other = source.state_dict(), {k: v + 1 for k, v in source.state_dict().items()}
    for content in (
        {"model": weights, "args": argparse.Namespace(lr=0.1), "epoch": 3},
        {"state_dict": other, "state_dict_ema": weights, "args": argparse.Namespace(lr=0.1)},
        {"model": other, "model_ema": {"n_averaged": torch.tensor(3)} | _module(weights)},
        {"state_dict": _module(weights)},
    ):
        torch.save(content, tmp_path / "w.pth")
        target = nn.Linear(3, 2)
        report = load_weights(target, tmp_path / "w.pth")
        assert (report.loaded, report.new, report.unused) == (2, 0, 0)
        assert torch.equal(target.weight, source.weight)


def _module(weights):
    return {f"module.{k}": v for k, v in weights.items()}


def test_kernels_of_rgb_images_serve_four_channels(tmp_path):
    path, weights = written("timm_resnet18", tmp_path)
    network = MaskRCNN(3, TimmFPN("resnet18", 16), in_channels=4)
    report = load_weights(network, path)
    assert not report.mismatched
    assert "converted from RGB to R, Gr, B, Gb: backbone.body.conv1.weight" in str(report)
    red, first, blue, second = network.backbone.body.conv1.weight.unbind(dim=1)
    theirs = weights["conv1.weight"]
    assert torch.equal(torch.stack([red, first + second, blue], dim=1), theirs)
    assert torch.equal(first, second)


def test_weights_of_the_original_yolo_fit_a_network_with_low_pass_layers(tmp_path):
    plain = YOLOSeg("n", 3)
    torch.save({original_name(k): v for k, v in plain.state_dict().items()}, tmp_path / "n.pt")
    network = YOLOSeg("n", 3, backbone=CSPBackbone("n", low_pass=LOW))
    report = load_weights(network, tmp_path / "n.pt")
    assert (report.loaded, report.unused) == (len(plain.state_dict()), 0)
    assert all(
        name.endswith((".kernel", ".mix.weight")) or ".awd." in name for name in report.missing
    )
    name = "backbone.stage4.1.chain.0.first.conv.weight"
    assert torch.equal(network.state_dict()[name], plain.state_dict()[name])
