"""What every segmentation model promises; models are found by their recipes."""

import copy
import dataclasses
import functools
import importlib
import inspect
import pkgutil

import pytest
import pytorch_lightning as pl
import torch
import yaml
from jsonargparse import ArgumentParser
from torch import nn

import models.seg
from lightning_modules.rebuilding import LINKS, place, without_sources
from models.seg.protocol import SegModel
from tests.support.layers import ROOT
from tests.support.mil_recipes import class_paths

NUM_CLASSES = 3  # of the scenes; class-agnostic recipes have one

# A small network of a class is enough: recipes of the quickstart are asked first.
FOLDERS = [ROOT / "configs" / kind for kind in ("quickstart", "seg")]
FILES = [file for folder in FOLDERS for file in sorted(folder.glob("*.yaml"))]


@functools.cache
def recipes():
    """Return model section and classes of one recipe for each class of a network."""
    found = {}
    for file in FILES:
        content = yaml.safe_load(file.read_text())
        network = class_paths(content["model"])[1]
        if network.startswith("models.seg."):
            merged = content["data"]["init_args"].get("class_agnostic", False)
            found.setdefault(network, (content["model"], 1 if merged else NUM_CLASSES))
    return found


def build(name, seed):
    """Return the network of a class, with random weights, in eval mode."""
    section, classes = recipes()[name]
    section = without_sources(section)
    place(section, LINKS["num_classes"], classes)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(pl.LightningModule, "model")
    torch.manual_seed(seed)
    parsed = parser.parse_object({"model": section})
    network = parser.instantiate_classes(parsed).model.model.eval()
    if "ResNet50" in name:  # a thousand regions cost seconds and show nothing more
        options = network.rpn.options
        network.rpn.options = dataclasses.replace(options, post_nms_train=100, post_nms_test=100)
    return network


def marked(name):
    """Networks with a ResNet-50 take seconds."""
    short = name.rpartition(".")[2]
    return pytest.param(name, id=short, marks=[pytest.mark.slow] if "ResNet50" in short else [])


@pytest.fixture(scope="module", params=map(marked, sorted(recipes())))
def model(request):
    return build(request.param, seed=0)


def learnable(model, batch):
    """Return a batch with labels that the model has; one that does not say so has all."""
    classes = getattr(model, "num_classes", NUM_CLASSES)
    return dataclasses.replace(batch, labels=batch.labels.clamp(max=classes - 1))


@pytest.fixture
def batch(scene, model):
    return learnable(model, scene([(64, 96), (64, 96)], instances=[3, 1])[0])


def test_every_model_in_the_folder_has_a_recipe():
    found = set()
    for module in pkgutil.walk_packages(models.seg.__path__, "models.seg."):
        for _, kind in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            own = kind.__module__.startswith("models.seg.") and issubclass(kind, nn.Module)
            if own and all(hasattr(kind, name) for name in ("losses", "predict")):
                found.add(kind.__name__)
    assert found == {name.rpartition(".")[2] for name in recipes()}


def test_it_follows_the_protocol(model):
    assert isinstance(model, SegModel)
    assert model.max_dets >= 1


def test_the_loss_of_an_image_does_not_depend_on_its_batch(model, batch):
    each = model.losses(batch, reduction="none", key=3)
    alone = [model.losses(batch.image(n), key=3) for n in range(2)]
    for name, values in each.items():
        assert values.shape == (2,)
        expected = torch.stack([terms[name] for terms in alone])
        torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-5)
    training = copy.deepcopy(model).train().losses(batch, key=3)
    assert set(training) == set(each) == set(model.losses(batch, key=3))
    assert all(term.ndim == 0 and term.requires_grad for term in training.values())


@pytest.mark.parametrize("instances", [[3, 0], [0, 0]], ids=["one image", "no image"])
def test_every_parameter_gets_a_gradient_where_objects_are_absent(model, instances, scene):
    trained = copy.deepcopy(model).train()
    batch = learnable(model, scene([(64, 96), (64, 96)], instances=instances)[0])
    terms = trained.losses(batch)
    assert all(bool(term.isfinite()) for term in terms.values())
    sum(terms.values()).backward()
    named = [(n, p) for n, p in trained.named_parameters() if p.requires_grad]
    assert [name for name, p in named if p.grad is None or not p.grad.isfinite().all()] == []


def test_predictions_are_in_the_frame_of_the_file_and_the_best_come_first(model, batch):
    originals = torch.tensor([[128, 192], [32, 48]])
    enlarged = dataclasses.replace(batch, original_sizes=originals)
    found = model.predict(enlarged)
    assert [one.size for one in found] == [(128, 192), (32, 48)]
    for one, (height, width) in zip(found, originals.tolist(), strict=True):
        assert len(one) <= model.max_dets
        assert one.scores.tolist() == sorted(one.scores.tolist(), reverse=True)
        assert not (one.boxes.requires_grad or one.scores.requires_grad)
        assert tuple(one.masks.size) == (height, width)
        assert bool(((one.labels >= 0) & (one.labels < NUM_CLASSES)).all())
    for position, one in enumerate(found):
        (alone,) = model.predict(enlarged.image(position))
        assert torch.equal(one.labels, alone.labels)
        torch.testing.assert_close(one.scores, alone.scores, rtol=1e-4, atol=1e-5)


def test_a_file_gives_the_weights_back(model, batch, tmp_path, request):
    torch.save(model.state_dict(), tmp_path / "w.pt")
    other = build(request.node.callspec.params["model"], seed=1)
    other.load_state_dict(torch.load(tmp_path / "w.pt", weights_only=True), strict=True)
    for one, two in zip(model.predict(batch), other.predict(batch), strict=True):
        assert torch.equal(one.scores, two.scores)
        assert torch.equal(one.boxes, two.boxes)
