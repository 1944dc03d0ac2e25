"""Whole networks of classes that are not installed, read without them."""

import os
import sys
import types
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

import evaluate
from formats.weights.files import load_weights, read_file
from formats.weights.foreign import read_foreign_weights
from lightning_modules.base import TrainedModule
from models.backbones.csp import Scale
from models.seg.yolo import YOLOSeg
from tests.support.yolo_original_names import DETECTION_ALONE, original_name

TINY = Scale(depth=0.33, width=0.0625, max_channels=256)
WIDE = Scale(depth=0.33, width=0.125, max_channels=256)
IMAGES = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))


# ---- files as the original writes them, from a package that is there while they are written


@pytest.fixture
def package():
    """A module of the original's name whose classes are gone when the files are read."""

    class Layer(nn.Module):
        def forward_other(self):
            raise AssertionError

    class Namespace(types.SimpleNamespace):
        pass

    module = types.ModuleType("ultralytics.nn.tasks")
    Layer.forward_other.__module__ = module.__name__
    Layer.forward_other.__qualname__ = "Layer.forward_other"
    for kind in (Layer, Namespace):
        kind.__module__, kind.__qualname__ = module.__name__, kind.__name__
        setattr(module, kind.__name__, kind)
    parents = {n: types.ModuleType(n) for n in ("ultralytics", "ultralytics.nn")}
    sys.modules |= parents | {module.__name__: module}
    yield module
    for name in (*parents, module.__name__):
        sys.modules.pop(name, None)


def gone():
    for name in [n for n in sys.modules if n.startswith("ultralytics")]:
        del sys.modules[name]


def whole(package, state, **attributes):
    """A tree of foreign modules with these weights, as a network of the original."""
    root = package.Layer()
    for name, value in state.items():
        *path, leaf = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module._modules[part] = package.Layer()
            module = module._modules[part]
        if leaf.startswith(("running", "num_batches", "hidden")):
            module.register_buffer(leaf, value, persistent=not leaf.startswith("hidden"))
        else:
            module._parameters[leaf] = nn.Parameter(value, requires_grad=False)
    root.args = package.Namespace(lr=0.1)
    root.names = {0: "cat", 1: "dog"}
    root.stride = torch.tensor([8.0, 16.0, 32.0])
    vars(root).update(attributes)
    return root


def network(seed=0, classes=3, scale=TINY):
    torch.manual_seed(seed)
    model = YOLOSeg(scale, classes).eval()
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.copy_(torch.rand(buffer.shape) + 0.5)
    return model


def original_state(model):
    constants = {"model.22.dfl.conv.weight": torch.arange(16.0).view(1, 16, 1, 1)}
    return constants | {original_name(k): v.clone() for k, v in model.state_dict().items()}


def rounded(model):
    """The model with weights as half precision has them."""
    model.load_state_dict(
        {k: v.half().float() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    )
    return model


def same_outputs(one, other):
    with torch.no_grad():
        return all(torch.equal(a, b) for a, b in zip(one(IMAGES), other(IMAGES), strict=True))


def test_a_whole_network_in_half_precision(package, tmp_path):
    source, target = network(0), network(1)
    root = whole(package, original_state(source)).half()
    torch.save({"epoch": -1, "model": root, "ema": None, "best_fitness": None}, tmp_path / "w.pt")
    gone()
    report = load_weights(target, tmp_path / "w.pt")
    assert report.loaded == len(target.state_dict())
    assert not report.missing + report.unexpected + report.mismatched
    assert report.notes == ["read without its classes from a Layer under 'model'"]
    assert all(v.dtype != torch.float16 for v in target.state_dict().values())
    assert same_outputs(target, rounded(source))


def test_the_average_is_preferred_and_what_trainers_add_is_no_matter(package, tmp_path):
    raw, average, target = network(0), network(1), network(2)
    content = {
        "model": whole(package, original_state(raw)),
        "ema": whole(
            package,
            original_state(average),
            method=package.Layer.forward_other,  # bound to the class: a function
            bound=package.Layer().forward_other,
            device=torch.device("cpu"),
            scalar=np.float64(0.5),
            kinds={1, 2},
            size=torch.Size([1, 2]),
            big=1 << 40,
        ),
        "train_args": {"lr0": 0.01, "imgsz": [640, 640], "date": "Ä"},
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "ordered": OrderedDict()},
    }
    torch.save(content, tmp_path / "w.pt")
    gone()
    report = load_weights(target, tmp_path / "w.pt")
    assert "under 'ema'" in report.notes[0]
    assert same_outputs(target, average)
    assert not same_outputs(target, raw)


def test_a_network_by_itself_and_a_plain_state_dict(package, tmp_path):
    source = network(0)
    torch.save(whole(package, original_state(source)), tmp_path / "whole.pt")
    torch.save(original_state(source), tmp_path / "plain.pt")
    torch.save({"model": original_state(source)}, tmp_path / "nested.pt")
    gone()
    for name, note in (("whole", 1), ("plain", 0), ("nested", 0)):
        target = network(1)
        report = load_weights(target, tmp_path / f"{name}.pt")
        assert len(report.notes) == note
        assert report.unexpected == []
        assert same_outputs(target, source)


@pytest.mark.parametrize("hidden", ["other", "equal"])
def test_another_number_of_classes_keeps_the_class_branch(package, tmp_path, hidden):
    """Its hidden layers are max(c, classes) wide, and taken over where that is equal."""
    scale, theirs, ours = (TINY, 3, 30) if hidden == "other" else (WIDE, 3, 7)
    source, target = network(0, theirs, scale), network(1, ours, scale)
    before = {k: v.clone() for k, v in target.state_dict().items()}
    torch.save({"model": whole(package, original_state(source))}, tmp_path / "w.pt")
    gone()
    report = load_weights(target, tmp_path / "w.pt")
    changed = [line.split(":")[0] for line in report.mismatched]
    assert len(changed) == (6 if hidden == "equal" else 36)
    assert all(name.startswith("head.classes.") for name in changed)
    for name, value in target.state_dict().items():
        expected = before[name] if name in changed else source.state_dict()[name]
        assert torch.equal(value, expected), name
    assert f"head.classes.0.2.bias: (3,) -> ({ours},)" in report.mismatched
    assert not report.missing + report.unexpected


def test_a_detector_has_no_masks(package, tmp_path):
    source, target = network(0), network(1)
    state = original_state(source)
    state = {k: v for k, v in state.items() if not k.startswith(DETECTION_ALONE)}
    torch.save({"model": whole(package, state)}, tmp_path / "w.pt")
    gone()
    report = load_weights(target, tmp_path / "w.pt")
    assert {name.split(".")[1] for name in report.missing} == {"coefficients", "prototypes"}
    assert report.mismatched == report.unexpected == []
    assert "more in head.coefficients, head.prototypes" in str(report)
    with torch.no_grad():
        assert torch.equal(target(IMAGES).class_logits, source(IMAGES).class_logits)


def test_another_scale_names_the_file(package, tmp_path):
    torch.save({"model": whole(package, original_state(network(0, 3, "n")))}, tmp_path / "w.pt")
    gone()
    with pytest.raises(ValueError, match=r"w.pt does not fit the model: .* of scale n, the model"):
        load_weights(network(0), tmp_path / "w.pt")


def test_a_training_starts_from_it_and_says_so(package, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr("lightning_modules.base.rank_zero_info", told.append)
    source = network(0)
    torch.save({"model": whole(package, original_state(source))}, tmp_path / "w.pt")
    gone()
    options = {"loss_weights": None, "backbone_lr_mult": 1.0, "lr_scheduler": None}
    module = TrainedModule(network(1), torch.optim.SGD, init_from=str(tmp_path / "w.pt"), **options)
    assert same_outputs(module.model, source)
    assert "under 'model'" in told[0]


def test_hidden_buffers_views_and_empty_tensors(package, tmp_path):
    base = torch.arange(24.0).view(4, 6)
    state = {
        "a.turned": base.t()[1:4, :2],
        "a.last": base.view(torch.float32)[3:, 5:],
        "a.channels_last": torch.arange(16.0)
        .view(1, 2, 2, 4)
        .contiguous(memory_format=torch.channels_last),
        "a.none": torch.empty(0, 3),
        "a.scalar": torch.tensor(7),
        "a.hidden": torch.ones(3),
        "in_double": torch.tensor([1.0, 2.0], dtype=torch.float64),
        "in_brain": torch.tensor([1.0, 2.5], dtype=torch.bfloat16),
        "whole": torch.tensor([3, -4], dtype=torch.int32),
    }
    root = package.Layer()
    child = package.Layer()
    root._modules.update(a=child, nothing=None)
    child._parameters["absent"] = None
    for name, value in state.items():
        owner = child if name.startswith("a.") else root
        leaf = name.removeprefix("a.")
        owner.register_buffer(leaf, value, persistent=leaf != "hidden")
    torch.save({"model": root}, tmp_path / "w.pt")
    gone()
    found = read_foreign_weights(tmp_path / "w.pt").tensors
    assert set(found) == set(state) - {"a.hidden"}
    for name, value in found.items():
        floating = state[name].is_floating_point()
        assert value.dtype == (torch.float32 if floating else state[name].dtype)
        assert value.is_contiguous()
        assert torch.equal(value, state[name].to(value.dtype)), name


def test_our_own_files_never_reach_the_reader(tmp_path, monkeypatch):
    monkeypatch.setattr("formats.weights.files.read_foreign_weights", None)
    torch.save({"state_dict": nn.Linear(2, 3).state_dict()}, tmp_path / "w.pt")
    assert load_weights(nn.Linear(2, 3), tmp_path / "w.pt").loaded == 2


# ---- files that are refused or broken


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_an_object_with_reduce_in_a_file_of_torch(package, tmp_path):
    sentinel = tmp_path / "sentinel"
    root = whole(package, {"weight": torch.ones(2)}, extra=Evil(sentinel))
    torch.save({"model": root}, tmp_path / "evil.pt")
    gone()
    with pytest.raises(ValueError, match=r"refused: .*(posix|nt)\.system whose module"):
        load_weights(nn.Linear(2, 2), tmp_path / "evil.pt")
    with pytest.raises(ValueError, match=r"evil.pt: refused"):
        read_file(tmp_path / "evil.pt")
    assert not sentinel.exists()


def test_as_a_checkpoint_it_is_refused_and_told_how_to_use(package, tmp_path, capsys):
    torch.save({"model": whole(package, {"weight": torch.ones(2)})}, tmp_path / "yolo.pt")
    gone()
    common = ["--ckpt", tmp_path / "yolo.pt", "--annotations", "a.json"]
    for words in (
        ["latency", *common],
        ["coco", *common],
        ["export", *common[:2], "--out", tmp_path / "a.onnx"],
        ["mil", *common[:2], "--data", "bags.npz"],
    ):
        assert evaluate.main([str(word) for word in words]) == 2
        shown = capsys.readouterr().err
        assert "yolo.pt: refused, because it holds more than tensors" in shown
        assert f"--model.init_args.init_from {tmp_path / 'yolo.pt'}" in shown


def test_damaged_files(package, tmp_path):
    torch.save({"model": whole(package, {"weight": torch.ones(500)})}, tmp_path / "w.pt")
    gone()
    data = (tmp_path / "w.pt").read_bytes()
    for length in (0, 10, len(data) // 2, len(data) - 10):
        (tmp_path / "cut.pt").write_bytes(data[:length])
        said = "broken file" if length else "has no weights"
        with pytest.raises(ValueError, match=f"cut.pt: {said}"):
            load_weights(nn.Linear(2, 2), tmp_path / "cut.pt")
    place = data.index(torch.ones(500).numpy().tobytes()) + 7
    (tmp_path / "bit.pt").write_bytes(data[:place] + b"\x01" + data[place + 1 :])
    with pytest.raises(ValueError, match=r"bit.pt: broken archive.*CRC"):
        load_weights(nn.Linear(2, 2), tmp_path / "bit.pt")


def test_the_format_before_archives(package, tmp_path):
    root = whole(package, {"weight": torch.ones(2)})
    torch.save(root, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    gone()
    with pytest.raises(ValueError, match=r"old.pt: refused.*instead. Whole.*of PyTorch before"):
        load_weights(nn.Linear(2, 2), tmp_path / "old.pt")
