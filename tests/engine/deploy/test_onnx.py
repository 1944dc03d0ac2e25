"""Export to ONNX: the file, its metadata and outputs, and what it is decoded with."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import evaluate
from datamodules.transforms.raw.low_light import LowLightOptions
from engine.checkpoints.restore import restore
from engine.deploy import onnx as export
from models.ops.low_light.adaptive_downsampling import AdaptiveDownsample
from models.ops.low_light.smooth_convolution import SmoothConv
from models.seg.yolo.output import YOLOOutput, decode_boxes
from structures import SegBatch
from tests.support.tiny_checkpoints import LOW_PASS_YOLO, MASK_RCNN, YOLO, write_checkpoint

ROOT = Path(__file__).resolve().parents[3]


class Tiny(nn.Module):
    """A network of a few layers with the four outputs of the exported one."""

    def __init__(self):
        super().__init__()
        self.cells = nn.Conv2d(3, 6, 8, 8)
        self.fine = nn.Conv2d(3, 2, 4, 4)

    def forward(self, images):
        found = self.cells(images).flatten(2).transpose(1, 2)
        scores = found[..., 4:].sigmoid()
        return found[..., :4], scores, found[..., :2].contiguous(), self.fine(images)


def session_of(content):
    onnxruntime = pytest.importorskip("onnxruntime")
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def tiny():
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    network = Tiny().eval()
    return network, export.to_onnx(network, {"names": '["ä", "b"]'})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    sizes = {"eval_short_side": 64, "max_long_side": 100}
    return write_checkpoint(folder / "yolo.ckpt", YOLO, liven=1.0, preprocessing=sizes)


@pytest.mark.slow
def test_batch_height_and_width_are_free(tiny):
    network, content = tiny
    session = session_of(content)
    names = [value.name for value in session.get_outputs()]
    assert [value.name for value in session.get_inputs()] == ["images"]
    assert names == ["boxes", "scores", "coefficients", "prototypes"]
    assert session.get_modelmeta().custom_metadata_map == {"names": '["ä", "b"]'}
    for shape in ((1, 3, 32, 32), (4, 3, 32, 96), (2, 3, 128, 64)):
        images = torch.rand(shape)
        found = session.run(names, {"images": images.numpy()})
        for ours, theirs in zip(network(images), found, strict=True):
            torch.testing.assert_close(torch.from_numpy(theirs), ours, rtol=1e-5, atol=1e-5)


def test_differences_are_the_largest_of_all_inputs(tiny):
    network, content = tiny
    shapes = ((1, 32, 32), (2, 64, 32))
    same = export.largest_differences(network, content, shapes)
    assert max(same.values()) < 1e-5

    class Off(nn.Module):
        def forward(self, images):
            boxes, scores, *others = network(images)
            return boxes, scores + 0.25 * (images.shape[2] == 32), *others

    off = export.largest_differences(Off(), content, shapes)
    assert off["scores"] == pytest.approx(0.25, abs=1e-5)
    assert off["boxes"] == same["boxes"]

    class Fewer(nn.Module):
        def forward(self, images):
            return [value[:, 1:] for value in network(images)]

    with pytest.raises(ValueError, match="ONNX gives boxes of shape"):
        export.largest_differences(Fewer(), content, shapes)


def test_a_file_appears_only_when_its_outputs_are_right(tiny, checkpoint, tmp_path, monkeypatch):
    target = tmp_path / "new" / "m.onnx"
    monkeypatch.setattr(export, "to_onnx", lambda *_: b"content")
    measured = dict.fromkeys(export.OUTPUTS, 0.0)
    monkeypatch.setattr(export, "largest_differences", lambda *_: measured)
    for wrong in (2e-4, float("nan")):
        measured["scores"] = wrong
        with pytest.raises(ValueError, match=r"scores by .*allowed 0\.0001.*nothing was written"):
            export.export_checkpoint(checkpoint, target)
        assert not target.exists()
    measured["scores"] = 1e-4
    done = export.export_checkpoint(checkpoint, target)
    assert target.read_bytes() == b"content"
    assert done.size == 7
    assert done.differences == measured
    assert [path.name for path in target.parent.iterdir()] == ["m.onnx"]


def test_without_the_packages_the_extra_is_named(checkpoint, tmp_path, monkeypatch, capsys):
    real = export.find_spec
    monkeypatch.setattr(export, "find_spec", lambda n: None if n == "onnxruntime" else real(n))
    monkeypatch.setattr(export, "to_onnx", lambda *_: b"content")
    words = ["export", "--ckpt", str(checkpoint), "--out", str(tmp_path / "m.onnx")]
    assert evaluate.main([*words, "--check"]) == 2
    assert (
        "onnxruntime: pip install -e '.[export]' in the clone installs them"
        in capsys.readouterr().err
    )
    assert evaluate.main(words) == 0
    assert "not compared, because onnxruntime is not installed" in capsys.readouterr().out
    monkeypatch.setattr(export, "find_spec", lambda _: None)
    assert evaluate.main(words) == 2
    assert "onnx and onnxscript: pip install" in capsys.readouterr().err


def test_what_cannot_be_exported_is_told(tmp_path, capsys, monkeypatch):
    other = write_checkpoint(tmp_path / "m.ckpt", MASK_RCNN)
    words = ["export", "--ckpt", str(other), "--out"]
    assert evaluate.main([*words, str(tmp_path / "m.onnx")]) == 2
    shown = capsys.readouterr().err
    assert "m.ckpt: holds a MaskRCNN; YOLOSeg can be exported. A two-stage" in shown
    assert evaluate.main([*words, str(tmp_path)]) == 2
    assert "is a folder; name a file to write" in capsys.readouterr().err
    before = other.read_bytes()
    assert evaluate.main([*words, str(other)]) == 2
    assert "is the file of --ckpt and would replace it" in capsys.readouterr().err
    assert other.read_bytes() == before

    def stop(*_, **__):
        raise RuntimeError("Failed to decompose.\nlong story") from KeyError("no such operator")

    monkeypatch.setattr(torch.onnx, "export", stop)
    with pytest.raises(ValueError, match="Tiny cannot be written as ONNX by .*no such operator"):
        export.to_onnx(Tiny(), {})


def test_metadata_say_what_deployment_needs(checkpoint):
    restored = restore(checkpoint)
    facts = export.deployment_facts(restored.module.model, restored.facts)
    values = {name: json.loads(text) for name, text in facts.items()}
    assert values == {
        "segmil_format": 1,
        "names": list("0123456789"),
        "category_ids": list(range(1, 11)),
        "strides": [8, 16, 32],
        "prototype_stride": 4,
        "pad_value": 114 / 255,
        "score_thresh": 0.0,
        "nms_thresh": 0.7,
        "pre_nms": 30_000,
        "max_dets": 20,
        "mask_crop": "after",
        "preprocessing": {
            "eval_short_side": 64,
            "max_long_side": 100,
            "scale": 1.0,
            "size_multiple": 32,
        },
    }
    page = (ROOT / "docs" / "export.md").read_text()
    assert all(f"`{name}`" in page for name in facts if name != "segmil_format")


def documented():
    """Return the functions of the page, which know numpy alone."""
    namespace = {}
    source = re.search(r"```python\n(.*?)```", (ROOT / "docs/export.md").read_text(), re.DOTALL)
    exec(compile(source.group(1), "export.md", "exec"), namespace)
    return namespace


def two_images(network):
    """Return a batch of two sizes and what the deployed network says about its padded images."""
    torch.manual_seed(1)
    sizes, originals = torch.tensor([[60, 96], [51, 64]]), torch.tensor([[60, 96], [81, 101]])
    images = torch.zeros(2, 3, 64, 96)
    for image, (height, width) in zip(images, sizes.tolist(), strict=True):
        image[:, :height, :width] = torch.rand(3, height, width)
    batch = SegBatch(
        images=images,
        sizes=sizes,
        boxes=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.int64),
        masks=torch.zeros(0, 64, 96, dtype=torch.bool),
        counts=torch.tensor([0, 0]),
        crowd=torch.zeros(0, dtype=torch.bool),
        index=torch.tensor([0, 1]),
        original_sizes=originals,
        image_ids=(1, 2),
    )
    padded = images.clone()
    for image, (height, width) in zip(padded, sizes.tolist(), strict=True):
        image[:, height:] = network.pad_value
        image[:, :, width:] = network.pad_value
    with torch.no_grad():
        return batch, [value.numpy() for value in export.DeployedYOLO(network)(padded)]


def test_the_documented_decoding_gives_what_predict_gives(checkpoint):
    restored = restore(checkpoint)
    network, page = restored.module.model, documented()
    torch.manual_seed(2)
    with torch.no_grad():  # an untrained network's masks are all or nothing
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = 1.0
        network.train()(torch.rand(2, 3, 64, 96))
        network.eval()
        for branch in network.head.coefficients:
            branch[-1].weight.normal_(0, 1)
    facts = {
        name: json.loads(text)
        for name, text in export.deployment_facts(network, restored.facts).items()
    }
    batch, outputs = two_images(network)
    pixels, boxed = 0, 0
    for n, expected in enumerate(network.predict(batch)):
        valid, original = batch.sizes[n].tolist(), batch.original_sizes[n].tolist()
        boxes, scores, coefficients, prototypes = (value[n] for value in outputs)
        found = page["candidates"](boxes, scores, coefficients, valid, facts)
        kept = page["suppress"](found[0], found[2], facts)
        boxes, scores, labels, coefficients = (value[kept] for value in found)
        assert len(kept) == len(expected) == 20
        np.testing.assert_allclose(scores, expected.scores, atol=1e-6)
        np.testing.assert_array_equal(labels, expected.labels)
        boxes = boxes * (np.array(original) / valid)[[1, 0, 1, 0]]
        np.testing.assert_allclose(boxes, expected.boxes, atol=1e-3)
        for box, factors, mask in zip(boxes, coefficients, expected.masks.decode(), strict=True):
            ours = page["mask"](box, factors, prototypes, valid, original)
            assert (ours != mask.astype(bool)).sum() <= 2  # a logit of 0 but for rounding
            pixels += ours.sum()
            boxed += (box[2] - box[0]) * (box[3] - box[1])
    assert 0.2 < pixels / boxed < 0.8


def test_the_outputs_are_the_networks_own(checkpoint):
    network = restore(checkpoint).module.model
    images = torch.rand(1, 3, 32, 64)
    with torch.no_grad():
        raw: YOLOOutput = network(images)
        boxes, scores, coefficients, prototypes = export.DeployedYOLO(network)(images)
    torch.testing.assert_close(scores, raw.class_logits.sigmoid())
    torch.testing.assert_close(boxes, decode_boxes(raw.box_logits, raw.points, raw.strides))
    assert torch.equal(coefficients, raw.coefficients)
    assert torch.equal(prototypes, raw.prototypes)
    assert boxes.shape == (1, (32 * 64) // 64 + (32 * 64) // 256 + (32 * 64) // 1024, 4)


@pytest.mark.slow
def test_the_whole_network_from_checkpoint_to_onnxruntime(checkpoint, tmp_path, capsys):
    target, out = tmp_path / "m.onnx", tmp_path / "m.json"
    words = ["export", "--ckpt", checkpoint, "--out", target, "--check", "--report", out]
    assert evaluate.main([str(word) for word in words]) == 0
    assert "onnxruntime and PyTorch on 3 inputs" in capsys.readouterr().out
    record = json.loads(out.read_text())
    assert record["metrics"]["scores"] <= 1e-4
    assert record["metrics"]["boxes"] <= 1e-2
    session = session_of(target.read_bytes())
    assert session.get_modelmeta().custom_metadata_map == record["metadata"]
    deployed = export.DeployedYOLO(restore(checkpoint).module.model).eval()
    for shape in ((5, 3, 32, 32), (1, 3, 224, 160)):
        images = torch.rand(shape)
        with torch.no_grad():
            ours = deployed(images)
        theirs = session.run(list(export.OUTPUTS), {"images": images.numpy()})
        for name, one, other in zip(export.OUTPUTS, ours, theirs, strict=True):
            difference = (one - torch.from_numpy(other)).abs().max().item()
            assert difference <= export.TOLERANCES[name], name


class LowPass(Tiny):
    """The tiny network with both low-pass layers before it."""

    def __init__(self):
        super().__init__()
        branch = SmoothConv(nn.Conv2d(3, 3, 3, padding=1))
        self.layers = nn.Sequential(branch, AdaptiveDownsample(3, 1))

    def forward(self, images):
        return super().forward(self.layers(images))


@pytest.mark.slow
def test_low_pass_layers_of_any_height_and_width():
    pytest.importorskip("onnxscript")
    network = LowPass().eval()
    content, shapes = export.to_onnx(network, {}), ((1, 32, 32), (2, 64, 96))
    assert max(export.largest_differences(network, content, shapes).values()) < 1e-5


def test_branches_are_exported_folded_and_the_input_is_told(tmp_path, monkeypatch):
    options = {"input": "raw3", "ratio": [5, 50], "bits": 12, "clean": True}
    light = {"low_light": LowLightOptions.of(options).record(), "seed": 0}
    checkpoint = write_checkpoint(tmp_path / "low.ckpt", LOW_PASS_YOLO, preprocessing=light)
    seen = []
    monkeypatch.setattr(export, "to_onnx", lambda *given: seen.append(given) or b"content")
    monkeypatch.setattr(export, "largest_differences", lambda *_: {})
    words = ["export", "--ckpt", str(checkpoint), "--out", str(tmp_path / "low.onnx")]
    assert evaluate.main(words) == 0
    network, metadata = seen[0]
    kinds = {type(layer) for layer in network.modules()}
    assert AdaptiveDownsample in kinds
    assert SmoothConv not in kinds
    assert json.loads(metadata["low_light"]) == {
        "input": "raw3", "channels": 3, "camera": "canon_5d4", "ratio": [5, 50], "bits": 12,
        "physics": "corrected",
    }  # fmt: skip
    assert "`low_light`" in (ROOT / "docs" / "export.md").read_text()
