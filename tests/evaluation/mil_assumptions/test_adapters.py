"""Aggregators by their name: what is built, and what is told about a module that does not fit."""

import pickle
import textwrap

import pytest
import torch
from torch import nn

from evaluation.mil_assumptions.adapters import import_model
from evaluation.mil_assumptions.bag_models import PackedModel, PaddedModel, SingleBagModel
from models.mil.abmil import ABMIL


def modules(tmp_path, monkeypatch, source, name="their_bags"):
    """Write a file of modules that can be imported."""
    head = "import torch\nfrom torch import nn\n"
    (tmp_path / f"{name}.py").write_text(head + textwrap.dedent(source))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, name, raising=False)
    return name


THEIRS = """
class Base(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 1))

class Good(Base):
    def forward(self, X): return self.net(X).max()
class Masked(Base):
    def forward(self, X, mask=None): return self.net(X)[..., 0].masked_fill(~mask, -9e9).amax(1)
class Transposed(Base):
    def forward(self, X, mask): return self.net(X)[..., 0].masked_fill(mask, -torch.inf).amax(1)
class Second(Masked):
    def forward(self, X, rows): return super().forward(X, rows)
class PerInstance(Base):
    def forward(self, X, mask): return self.net(X)
class Counts(Base):
    def forward(self, X): return (self.net(X) > 0).sum()
class TwoLogits(Base):
    def forward(self, X): return self.net(X)[:2, 0]
class Words(Base):
    def forward(self, X): return {"logits": self.net(X).max()}
class Raises(Base):
    def forward(self, X): raise RuntimeError("no bag pleases me\\nat line 3")
class Detached(Base):
    def forward(self, X): return self.net(X).max().detach()
class Narrow(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(512, 1)
    def forward(self, X): return self.net(X).max()
class Needs(Base):
    def __init__(self, width, depth):
        super().__init__(width)
class Nothing(nn.Module):
    def forward(self, X): return X.amax()

def make(width=3): return Good(width)
def number(): return 3
value = 3
"""


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    return modules(tmp_path, monkeypatch, THEIRS)


def test_the_adapter_follows_from_the_signature_and_is_told(theirs):
    built = import_model(f"{theirs}.Good")
    assert (built.adapter, type(built(0))) == ("bag", SingleBagModel)
    assert "accepts no mask" in built.choice
    assert "--adapter" in built.choice
    built = import_model(f"{theirs}.Masked")
    assert (built.adapter, type(built(0))) == ("batch", PaddedModel)
    assert "accepts a mask" in built.choice
    built = import_model(f"{theirs}.Second")
    assert (built.adapter, type(built(0))) == ("batch", PaddedModel)
    assert "gets the mask as its second argument, rows" in built.choice
    built = import_model("models.mil.abmil.ABMIL", {"hidden_sizes": [8]})
    assert (built.adapter, type(built(0))) == ("packed", PackedModel)
    assert built(0).module.embed[1].weight.shape == (8, 16)
    assert import_model(f"{theirs}.make").adapter == "bag"


def test_weights_are_those_of_the_seed_also_in_another_process(theirs):
    built = import_model(f"{theirs}.Good", {"width": 5})
    sent = pickle.loads(pickle.dumps(built))
    torch.manual_seed(4)
    wanted = nn.Linear(16, 5).weight  # the first that the module draws
    for build in (built, sent):
        weights = [build(seed).module.net[0].weight for seed in (4, 4, 5)]
        assert weights[0].equal(wanted)
        assert weights[0].equal(weights[1])
        assert not weights[0].equal(weights[2])


def test_models_of_ours_may_be_built_around_one_another():
    inner = {"class_path": "models.mil.abmil.ABMIL", "init_args": {"hidden_sizes": [6]}}
    built = import_model("models.mil.imbalance.FocalMIL", {"learner": inner, "gamma": 0.25})
    learner = built(0).module
    assert learner.gamma == 0.25
    assert isinstance(learner.learner, ABMIL)
    assert learner.learner.embed[1].out_features == 6


@pytest.mark.parametrize(
    ("attribute", "adapter", "init_args", "told"),
    [
        ("PerInstance", None, {}, r"returned shape \(2, 45, 1\).*batch.*\(2,\) or \(2, 1\)"),
        ("Transposed", None, {}, "not finite.*True = real"),
        ("Counts", None, {}, "returned torch.int64.*tensor of floats"),
        ("TwoLogits", None, {}, r"returned shape \(2,\).*bag.*expected one logit"),
        ("Words", None, {}, "returned dict.*tensor of floats"),
        ("Raises", None, {}, r"raised RuntimeError.*bag.*\(45, 16\): no bag pleases me;"),
        ("Detached", None, {}, "depends on no parameter"),
        ("Narrow", None, {}, r"raised RuntimeError.*\(45, 16\)"),
        ("Good", "packed", {}, "adapter packed.*MILOutput"),
        ("Good", "batch", {}, r"returned shape \(\).*expected \(2,\) or \(2, 1\)"),
        ("Good", "other", {}, "adapter is one of"),
        ("Needs", None, {}, "cannot be built without arguments.*depth.*--init-args"),
        ("Good", None, {"depth": 3}, "cannot be built with {'depth': 3}.*depth"),
        ("number", None, {}, "number is a int, not a torch.nn.Module"),
        ("value", None, {}, "has no class or function 'value'.*it has the modules.*Good"),
        ("Goood", None, {}, "has no class or function 'Goood'.*Good"),
    ],
)
def test_what_does_not_fit_is_told(theirs, attribute, adapter, init_args, told):
    with pytest.raises(ValueError, match=f"(?s){told}") as caught:
        import_model(f"{theirs}.{attribute}", init_args, adapter)
    assert adapter == "other" or f"{theirs}.{attribute}" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("ABMIL", "not a dotted name"),
        ("my model.Net", "not a dotted name"),
        ("no_such_package.Net", "no module 'no_such_package'.*run from the folder"),
        ("models.mil.nothing.Net", "no module 'models.mil.nothing'.*of this repository"),
        ("models.mil.abmil.ABMIIL", "it has the modules ABMIL"),
        ("models.seg.mask_rcnn.MaskRCNN", "cannot be built.*in_features"),
        ("models.mil.pooling.InstancePooling", "required: init_args.pool"),
    ],
)
def test_names_that_lead_nowhere(name, told):
    with pytest.raises(ValueError, match=f"(?s)^.*{told}"):
        import_model(name)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import no_such_dependency", "importing broken raised ModuleNotFoundError.*no_such_dep"),
        ("def (", "importing broken raised SyntaxError"),
        ("1 / 0", "importing broken raised ZeroDivisionError"),
        ("raise SystemExit(3)", "importing broken raised SystemExit: 3"),
    ],
)
def test_a_file_that_cannot_be_imported(tmp_path, monkeypatch, source, told):
    name = modules(tmp_path, monkeypatch, source, "broken")
    with pytest.raises(ValueError, match=told):
        import_model(f"{name}.Net")


def test_a_module_of_the_working_folder_is_found(tmp_path, monkeypatch):
    (tmp_path / "lies_here.py").write_text("import torch\nfrom torch import nn\n" + THEIRS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    assert import_model("lies_here.Good").adapter == "bag"


def test_a_module_without_parameters_is_no_mistake(theirs):
    assert import_model(f"{theirs}.Nothing").adapter == "bag"


def test_two_logits_for_two_classes_are_refused():
    with pytest.raises(ValueError, match=r"returned shape \(2, 2\).*log-odds of class 1"):
        import_model("models.mil.abmil.ABMIL", {"task": "multiclass"})


@pytest.mark.parametrize("gated", [False, True])
def test_the_padded_modules_of_another_library(gated):
    pytest.importorskip("torchmil", reason="torchmil is not installed")
    built = import_model("torchmil.models.ABMIL", {"in_shape": [16], "gated": gated})
    assert built.adapter == "batch"
    module, bags = built(0).module.eval(), [torch.randn(n, 16) for n in (3, 5)]
    alone = torch.cat([module(bag.unsqueeze(0)).reshape(1) for bag in bags])
    torch.testing.assert_close(built(0).logits(bags), alone)
