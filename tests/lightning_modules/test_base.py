"""Loss sums, parameter groups and the non-finite guard."""

import math

import pytest
import torch
from torch import nn

from lightning_modules.base import TrainedModule
from lightning_modules.item_losses import ItemLosses
from lightning_modules.parameter_groups import parameter_groups


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def make_module(**kwargs):
    arguments = {"loss_weights": None, "backbone_lr_mult": 0.1, "init_from": None} | kwargs
    return TrainedModule(Net(), lambda g: torch.optim.AdamW(g, lr=0.5), None, **arguments)


def test_no_decay_on_norms_and_biases_and_none_for_frozen():
    groups = {g["name"]: g for g in parameter_groups(Net())}
    shapes = {n: [tuple(p.shape) for p in g["params"]] for n, g in groups.items()}
    assert shapes == {
        "backbone": [(4, 3, 3, 3)],
        "backbone_no_decay": [(4,), (4,), (4,)],
        "head": [(2, 4)],
        "head_no_decay": [(2,)],
    }
    assert all(("weight_decay" in g) == n.endswith("no_decay") for n, g in groups.items())


def test_no_decay_on_what_a_model_names():
    net = Net()
    net.queries = nn.Embedding(5, 4)
    net.no_weight_decay = ("queries.*",)
    groups = {g["name"]: g for g in parameter_groups(net)}
    shapes = {n: [tuple(p.shape) for p in g["params"]] for n, g in groups.items()}
    assert shapes["head"] == [(2, 4)]
    assert shapes["head_no_decay"] == [(2,), (5, 4)]


def test_biases_apart_also_those_of_norms():
    groups = {g["name"]: g for g in parameter_groups(Net(), separate_biases=True)}
    net = Net()
    assert {n: [tuple(p.shape) for p in g["params"]] for n, g in groups.items()} == {
        "backbone": [(4, 3, 3, 3)],
        "backbone_no_decay": [(4,)],
        "backbone_bias": [(4,), (4,)],
        "head": [(2, 4)],
        "head_bias": [(2,)],
    }
    named = {id(p): n for n, p in net.named_parameters()}
    biases = parameter_groups(net, separate_biases=True)
    found = [named[id(p)] for g in biases if g["name"].endswith("_bias") for p in g["params"]]
    assert sorted(found) == ["backbone.0.bias", "backbone.1.bias", "head.bias"]
    assert all(g["weight_decay"] == 0 for g in biases if g["name"] not in ("backbone", "head"))


def test_optimizer_groups_carry_rates_and_decay():
    module = make_module()
    optimizer = module.configure_optimizers()["optimizer"]
    rates = {g["name"]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups}
    assert rates["backbone"] == pytest.approx((0.05, 0.01))
    assert rates["backbone_no_decay"] == pytest.approx((0.05, 0.0))
    assert rates["head"] == pytest.approx((0.5, 0.01))
    assert rates["head_no_decay"] == pytest.approx((0.5, 0.0))


def test_factors_by_pattern_replace_that_of_the_backbone():
    factors = {"backbone.1.*": 10.0, "backbone.*.weight": 2.0, "*.bias": 3}
    module = make_module(lr_mult=factors)
    optimizer = module.configure_optimizers()["optimizer"]
    named = {id(p): n for n, p in module.model.named_parameters()}
    found = {
        g["name"]: (g["lr"] / 0.5, g["weight_decay"], {named[id(p)] for p in g["params"]})
        for g in optimizer.param_groups
    }
    assert found == {
        "head": (1.0, 0.01, {"head.weight"}),
        "backbone_x2": (2.0, 0.01, {"backbone.0.weight"}),
        "backbone_x3_no_decay": (3.0, 0.0, {"backbone.0.bias"}),
        "head_x3_no_decay": (3.0, 0.0, {"head.bias"}),
        "backbone_x10_no_decay": (10.0, 0.0, {"backbone.1.weight", "backbone.1.bias"}),
    }
    groups = parameter_groups(module.model, separate_biases=True, lr_mult=factors)
    assert "backbone_x10_bias" in {g["name"] for g in groups}


def test_factors_that_do_not_serve():
    message = r"lr_mult: no parameter of Net matches backbon.\*; did you mean backbone\.\*"
    with pytest.raises(ValueError, match=message):
        make_module(lr_mult={"backbon.*": 2.0})
    for factor in (0.0, float("nan")):
        with pytest.raises(ValueError, match=r"the factor of backbone.\* must be positive"):
            make_module(lr_mult={"backbone.*": factor})


def test_total_is_the_weighted_sum():
    terms = {"a": torch.tensor(2.0), "b": torch.tensor(3.0)}
    assert make_module(loss_weights={"b": 0.5}).total_loss(terms, [1]) == 3.5
    assert make_module().total_loss(terms, [1]) == 5.0


def test_a_weight_without_a_term_is_refused():
    with pytest.raises(ValueError, match=r"names \['mask'\]; the model has \['a'\]"):
        make_module(loss_weights={"mask": 1.0}).total_loss({"a": torch.tensor(1.0)}, [])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_term_and_samples(value):
    terms = {"good": torch.tensor(1.0), "bad": torch.tensor(value)}
    with pytest.raises(ValueError, match=r"\{'bad': (nan|inf)\}; samples \['slide_7'\]"):
        make_module().total_loss(terms, ["slide_7"])


def test_item_losses_are_logged_as_means_and_refused_where_not_finite(monkeypatch):
    module, logged = make_module(loss_weights={"b": 0.5}), {}
    monkeypatch.setattr(module, "log", lambda name, value, **_: logged.update({name: float(value)}))
    losses = ItemLosses()
    losses.add(torch.tensor([0, 1]), (), {"a": torch.tensor([1.0, 3.0]), "b": torch.ones(2)})
    module.log_item_losses("val", losses)
    assert logged == {"val/loss_a": 2.0, "val/loss_b": 1.0, "val/loss": 2.5}
    losses.add(torch.tensor([7]), ("slide_7",), {"a": torch.tensor([math.nan]), "b": torch.ones(1)})
    with pytest.raises(ValueError, match=r"val; samples \['slide_7'\]"):
        module.log_item_losses("val", losses)


def test_training_losses_are_logged_by_term(monkeypatch):
    module, logged = make_module(loss_weights={"b": 0.5}), {}
    monkeypatch.setattr(module, "log", lambda name, value, **_: logged.update({name: float(value)}))
    monkeypatch.setattr(module, "log_dict", lambda values, **_: logged.update(values))
    terms = {"a": torch.tensor(1.0, requires_grad=True), "b": torch.tensor(4.0)}
    total = module.training_loss(terms, [1], size=1)
    assert total.requires_grad
    assert logged == {"train/loss_a": 1.0, "train/loss_b": 4.0, "train/loss": 3.0}
