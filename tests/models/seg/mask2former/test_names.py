"""Weights of ``transformers``' Mask2Former by the names on disk and in memory."""

import copy

import pytest
import torch

from formats.weights.files import load_weights
from formats.weights.public import names_without_file
from models.backbones.low_light import LowPassOptions
from models.backbones.timm_features import TimmFeatures
from tests.support.mask2former_peer import CLASSES, ours, theirs


@pytest.mark.parametrize("backbone", ["resnet", "timm", "swin"])
def test_nothing_is_missing(backbone, tmp_path):
    peer, model = theirs(backbone), ours(backbone)
    peer.save_pretrained(tmp_path)
    torch.save(peer.state_dict(), tmp_path / "memory.pt")
    loaded = []
    for file in ("model.safetensors", "memory.pt"):
        other = copy.deepcopy(model)
        report = load_weights(other, tmp_path / file)
        assert (report.missing, report.unexpected, report.mismatched) == ([], [], [])
        assert "transformers" in report.notes[0]
        loaded.append(other.state_dict())
    assert all(torch.equal(value, loaded[1][name]) for name, value in loaded[0].items())


def test_another_number_of_classes_starts_with_a_new_head(tmp_path):
    torch.save(theirs("resnet").state_dict(), tmp_path / "w.pt")
    model = ours("resnet", num_classes=CLASSES + 1)
    head = model.decoder.class_embed.weight.clone()
    report = load_weights(model, tmp_path / "w.pt")
    assert [line.split(":")[0] for line in report.mismatched] == [
        "decoder.class_embed.bias",
        "decoder.class_embed.weight",
    ]
    assert torch.equal(model.decoder.class_embed.weight, head)


@pytest.mark.slow
def test_another_size_or_backbone_is_refused_by_name_and_shape(tmp_path):
    torch.save(theirs("resnet").state_dict(), tmp_path / "w.pt")
    other = {
        r"query_feat.weight is \(12, 64\) in the file, \(9, 64\) in the model": {"num_queries": 9},
        r"layers.2.linear1.weight \(48, 64\) is not in the file": {"encoder_layers": 4},
        r"decoder.layers.8.cross_attn.in_proj_weight \(192, 64\) is not in": {"decoder_layers": 8},
        r"is \(64, 64\) in the file, \(96, 96\) in the model": {"width": 96},
    }
    for message, changed in other.items():
        with pytest.raises(ValueError, match=message):
            load_weights(ours("resnet", **changed), tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"lateral.0.weight is \(64, 64, 1, 1\) in the file"):
        load_weights(ours("swin"), tmp_path / "w.pt")


def test_four_channels_take_weights_of_three():
    peer, model = theirs("resnet"), ours("resnet", in_channels=4)
    found = model.public_weights(peer.state_dict())
    assert found.tensors["backbone.body.conv1.weight"].shape[1] == 3  # converted by the loader


def test_layers_that_no_file_has_start_anew(tmp_path):
    torch.save(theirs("resnet").state_dict(), tmp_path / "w.pt")
    low_pass = LowPassOptions(awd=True, scb=True)
    backbone = TimmFeatures("resnet18", strides=(4, 8, 16, 32), low_pass=low_pass)
    report = load_weights(ours("resnet", backbone=backbone), tmp_path / "w.pt")
    assert report.missing and not report.unexpected + report.mismatched
    assert set(report.missing) <= names_without_file(ours("resnet", backbone=backbone))


def test_other_files_and_incomplete_attentions():
    peer, model = theirs("resnet"), ours("resnet")
    assert model.public_weights(model.state_dict()) is None
    given = peer.state_dict()
    del given["model.transformer_module.decoder.layers.0.self_attn.k_proj.weight"]
    with pytest.raises(ValueError, match=r"layers.0.self_attn.in_proj_weight"):
        model.public_weights(given)
