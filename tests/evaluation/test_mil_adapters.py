"""Adapters against modules called by hand, and what is told about a module that does not fit."""

import pickle
import textwrap

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from evaluation.mil_adapters import adapt, import_model
from evaluation.mil_bag_models import PackedModel, PaddedModel, SingleBagModel, mask_place
from models.mil.abmil import ABMIL
from models.mil.imbalance import ClassWeightedMIL
from models.mil.pooling import InstancePooling
from structures import BagBatch, MILOutput

WIDTH = 4


def bags_of(sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, WIDTH, generator=generator) for size in sizes]


class MaskedMax(nn.Module):
    """The largest score of the rows that the mask names; remembers what it was called with."""

    def __init__(self, keep_column=False):
        super().__init__()
        self.score = nn.Linear(WIDTH, 1)
        self.keep_column = keep_column

    def forward(self, X, mask):
        self.seen = (X, mask)
        scores = self.score(X).squeeze(2).masked_fill(~mask, -torch.inf).amax(1)
        return scores.unsqueeze(1) if self.keep_column else (scores, "attention")


class OneBag(nn.Module):
    """The sum of the scores of one bag, in a shape of one's choice."""

    def __init__(self, shape=()):
        super().__init__()
        self.score = nn.Linear(WIDTH, 1)
        self.shape = shape

    def forward(self, x):
        return self.score(x).sum().reshape(self.shape)


@pytest.mark.parametrize("keep_column", [False, True])
def test_batch_pads_with_zeros_and_tells_what_is_real(keep_column):
    bags, module = bags_of([2, 3, 1]), MaskedMax(keep_column)
    model = adapt(module, "batch")
    logits = model.logits(bags)
    by_hand = torch.stack([module.score(bag).max() for bag in bags])
    torch.testing.assert_close(logits, by_hand)
    assert logits.requires_grad
    X, mask = module.seen
    assert mask.tolist() == [[True, True, False], [True, True, True], [True, False, False]]
    assert not X[~mask].any()
    assert X[mask].equal(torch.cat(bags))
    model.with_padding(10.0).logits(bags)
    noisy, noisy_mask = module.seen
    assert noisy_mask.equal(mask)
    assert noisy[mask].equal(torch.cat(bags))
    assert noisy[~mask].std() > 3


def test_a_tensor_is_bags_of_one_size():
    X = torch.randn(3, 5, WIDTH)
    for module, name in ((MaskedMax(), "batch"), (OneBag(), "bag")):
        model = adapt(module, name)
        torch.testing.assert_close(model.logits(X), model.logits(list(X)))
    learner = ABMIL(WIDTH, 2, "binary", hidden_sizes=(6,))
    model = adapt(learner.eval(), "packed")
    torch.testing.assert_close(model.logits(X), model.logits(list(X)))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (1, 1, 1)])
def test_bag_takes_one_logit_of_any_shape(shape):
    bags, module = bags_of([2, 3, 1]), OneBag(shape)
    by_hand = torch.stack([module.score(bag).sum() for bag in bags])
    torch.testing.assert_close(adapt(module, "bag").logits(bags), by_hand)


@pytest.mark.parametrize(("module", "name"), [(MaskedMax(), "batch"), (OneBag(), "bag")])
def test_the_loss_of_plain_modules_is_the_mean_cross_entropy(module, name):
    bags, labels = bags_of([2, 3, 1]), torch.tensor([1, 0, 0])
    model = adapt(module, name)
    p = model.logits(bags).sigmoid()
    by_hand = -(p[0].log() + (1 - p[1]).log() + (1 - p[2]).log()) / 3
    torch.testing.assert_close(model.loss(bags, labels), by_hand)


class Writes(nn.Module):
    """Changes what it is given."""

    def __init__(self):
        super().__init__()
        self.score = nn.Linear(WIDTH, 1)

    def forward(self, X, mask=None):
        return self.score(X.mul_(2.0)).amax((-2, -1))


@pytest.mark.parametrize("name", ["batch", "bag"])
def test_a_module_that_writes_into_its_bags_does_not_reach_the_data(name):
    X = torch.randn(3, 5, WIDTH)
    before, model = X.clone(), adapt(Writes(), name)
    for bags in (X, list(X)):
        model.loss(bags, torch.tensor([0, 1, 0])).backward()
        assert X.equal(before)
        assert model.logits(bags).equal(model.logits(bags))


class TwoTerms(nn.Module):
    """A packed module whose loss says what it was given."""

    def __init__(self):
        super().__init__()
        self.score = nn.Linear(WIDTH, 1)

    def forward(self, bags):
        return MILOutput(torch.stack([self.score(b.features).sum(0) for b in bags.bags()]))

    def losses(self, output, bags):
        self.seen = bags
        return {"bag": output.logits.sum(), "extra": 3 * output.logits[0, 0]}


def test_packed_adds_up_all_terms_and_numbers_the_bags():
    bags, labels, module = bags_of([2, 3, 1]), torch.tensor([1, 0, 0]), TwoTerms()
    model = adapt(module, "packed")
    sums = torch.stack([module.score(bag).sum() for bag in bags])
    torch.testing.assert_close(model.logits(bags), sums)
    torch.testing.assert_close(model.loss(bags, labels), sums.sum() + 3 * sums[0])
    assert module.seen.labels.equal(labels)
    assert module.seen.offsets.tolist() == [0, 2, 5, 6]
    assert module.seen.features.equal(torch.cat(bags))
    model.before_step(0.5, torch.tensor([7, 2, 9]))
    model.loss(bags, labels)
    assert module.seen.index.tolist() == [7, 2, 9]


def test_packed_without_losses_trains_by_cross_entropy():
    bags, labels, module = bags_of([2, 3]), torch.tensor([1, 0]), TwoTerms()
    module.losses = None
    model = adapt(module, "packed")
    wanted = F.binary_cross_entropy_with_logits(model.logits(bags), labels.float())
    torch.testing.assert_close(model.loss(bags, labels), wanted)


def test_packed_learners_see_the_training_bags():
    learner = ClassWeightedMIL(WIDTH, 2, "binary", learner=ABMIL)
    adapt(learner, "packed").before_training(torch.tensor([0, 0, 0, 1]), torch.full((4,), 2))
    assert learner.counts.tolist() == [3, 1]


def test_scores_of_instances_are_in_the_graph_of_the_logits():
    bags = bags_of([3, 2])
    learner = InstancePooling(WIDTH, 2, "binary", pool="mean", hidden_sizes=())
    logits, scores = adapt(learner, "packed").instance_scores(bags)
    (slope,) = torch.autograd.grad(logits.sum(), scores)
    torch.testing.assert_close(slope[:, 0], torch.tensor([1 / 3] * 3 + [1 / 2] * 2))
    assert adapt(ABMIL(WIDTH, 2, "binary"), "packed").instance_scores(bags) is None
    module = TwoTerms()
    module.forward = lambda bags: MILOutput(torch.zeros(2, 1), instance_logits=torch.zeros(5, 2))
    assert adapt(module, "packed").instance_scores(bags) is None
    assert adapt(MaskedMax(), "batch").instance_scores(bags) is None


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("def forward(self, X): return X", "none"),
        ("def forward(self, X, return_att=False): return X", "none"),
        ("def forward(self, X, real_rows): return X", "second"),
        ("def forward(self, X, mask=None): return X", "keyword"),
        ("def forward(self, X, adjacency, *, mask): return X", "keyword"),
        ("def forward(self, X, mask, /): return X", "second"),
        ("def forward(self, X, mask=None, /): return X", "second"),
        ("def forward(self, *bags): return bags", "none"),
    ],
)
def test_where_the_mask_goes(source, place):
    space = {}
    exec(source, space)
    module = type("Any", (nn.Module,), {"forward": space["forward"]})()
    assert mask_place(module) == place
    if place != "none":
        assert PaddedModel(module).takes_mask


def test_the_mask_reaches_the_module_by_name_or_place():
    class ByName(MaskedMax):
        def forward(self, X, more=None, mask=None):
            assert more is None
            return super().forward(X, mask)

    class ByPlace(MaskedMax):
        def forward(self, X, rows, /):
            return super().forward(X, rows)

    class Without(nn.Module):
        def forward(self, X, attention=False):
            assert attention is False
            return X.mean((1, 2))

    bags = bags_of([2, 3])
    for kind in (ByName, ByPlace):
        module = kind()
        wanted = torch.stack([module.score(bag).max() for bag in bags])
        torch.testing.assert_close(adapt(module, "batch").logits(bags), wanted)
    model = adapt(Without(), "batch")
    assert not model.takes_mask
    assert model.logits(bags)[1].item() == pytest.approx(bags[1].mean().item())


# What a module of somebody else may do wrong.


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
    assert "no place for a mask" in built.choice
    assert "--adapter" in built.choice
    built = import_model(f"{theirs}.Masked")
    assert (built.adapter, type(built(0))) == ("batch", PaddedModel)
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


def test_learners_of_ours_may_be_built_around_one_another():
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
        ("ABMIL", "no dotted name"),
        ("my model.Net", "no dotted name"),
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


def test_packed_batches_are_those_of_the_repository():
    bags = bags_of([2, 1])
    seen = []
    module = TwoTerms()
    module.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    adapt(module, "packed").logits(bags)
    assert isinstance(seen[0], BagBatch)
    seen[0].check()
    assert seen[0].index.tolist() == [0, 0]
