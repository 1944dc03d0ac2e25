"""Structural tests on small modules of which every property is known."""

import json

import pytest
import torch
from torch import nn

from evaluation.mil_assumptions.adapters import adapt, import_model
from evaluation.mil_assumptions.structure import StructureSettings, check_structure
from evaluation.report.record import finite

DIM = 4
FEW = StructureSettings(seeds=2, pairs=100, bags=12, searched=2, sizes=(1, 9))
HOLDS, FAILS, NONE = "holds", "fails", "n/a"


class Scored(nn.Module):
    """A function of the scores of a bag's instances, (N,) each."""

    def __init__(self, function):
        super().__init__()
        self.score = nn.Linear(DIM, 1)
        self.function = function

    def forward(self, X):
        return self.function(self.score(X)[:, 0])


def builder(make, adapter="bag"):
    def build(seed):
        torch.manual_seed(seed)
        return adapt(make(), adapter)

    return build


def structure(make, adapter="bag", settings=FEW):
    return check_structure(builder(make, adapter), DIM, settings)


def statuses(report):
    return {name: found.status for name, found in report.properties().items()}


class Concepts(nn.Module):
    """The largest of each of two scores, added with positive weights or with signs."""

    def __init__(self, signs):
        super().__init__()
        self.score = nn.Linear(DIM, 2)
        self.signs = signs

    def forward(self, X):
        return self.score(X).amax(0) @ torch.tensor(self.signs, dtype=X.dtype)


def attention(s):
    return (s.softmax(0) * s).sum()


KNOWN = {  # function of the scores -> permutation, monotonicity, duplication, bag copies
    "max": (lambda s: s.amax(), (HOLDS, HOLDS, HOLDS, HOLDS)),
    "minus_max": (lambda s: -s.amax(), (HOLDS, FAILS, HOLDS, HOLDS)),
    "min": (lambda s: s.amin(), (HOLDS, FAILS, HOLDS, HOLDS)),
    "mean": (lambda s: s.mean(), (HOLDS, FAILS, FAILS, HOLDS)),
    "sum": (lambda s: s.sum(), (HOLDS, FAILS, FAILS, FAILS)),
    "sum_of_hits": (lambda s: s.relu().sum(), (HOLDS, HOLDS, FAILS, FAILS)),
    "log_sum_exp": (lambda s: s.logsumexp(0), (HOLDS, HOLDS, FAILS, FAILS)),
    "attention": (attention, (HOLDS, FAILS, FAILS, HOLDS)),
    "first": (lambda s: s[0], (FAILS, HOLDS, HOLDS, HOLDS)),
    "last": (lambda s: s[-1], (FAILS, FAILS, FAILS, HOLDS)),
    "count": (lambda s: s.amax() + len(s), (HOLDS, HOLDS, FAILS, FAILS)),
    "fewer": (lambda s: s.amax() - len(s), (HOLDS, FAILS, FAILS, FAILS)),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_functions_of_scores(name):
    function, wanted = KNOWN[name]
    report = structure(lambda: Scored(function))
    found = statuses(report)
    names = ("permutation", "monotonicity", "duplication", "bag_copies")
    assert dict(zip(names, wanted, strict=True)) == {n: found[n] for n in names}
    assert found["padding"] == NONE  # one bag per call
    assert found["gradient_sign"] == NONE  # a plain module tells no scores
    assert not report.notes


def test_evidence_against_a_bag_is_found_and_evidence_for_it_is_not():
    assert statuses(structure(lambda: Concepts((1.0, 2.0))))["monotonicity"] == HOLDS
    report = structure(lambda: Concepts((1.0, -1.0)))
    assert statuses(report)["monotonicity"] == FAILS
    assert report.duplication.status == HOLDS


@pytest.mark.parametrize("name", ["mean", "last", "fewer"])
def test_a_counter_example_is_one(name):
    function, _ = KNOWN[name]
    report = structure(lambda: Scored(function))
    example = report.monotonicity.example
    module = builder(lambda: Scored(function))(0).module  # the first network that failed
    larger = torch.cat([example.bag, example.added.unsqueeze(0)])
    with torch.no_grad():
        before, after = (module.double()(X.double()).item() for X in (example.bag, larger))
    assert (example.before, example.after) == pytest.approx((before, after), abs=1e-9)
    assert example.after < example.before
    assert report.monotonicity.worst >= example.before - example.after
    low, high = report.monotonicity.sizes
    assert low <= len(example.bag) <= high


def test_an_example_like_the_bags_is_preferred():
    """A far instance lowers a mean more, but one like the bag's own is easier to believe."""
    report = structure(lambda: Scored(lambda s: s.mean()))
    example = report.monotonicity.example
    assert example.added.abs().max() < 15
    assert report.monotonicity.worst > 2 * (example.before - example.after)


def test_how_much_and_how_often():
    """A bag of n loses exactly 1 by a further instance, however large it is."""
    report = structure(lambda: Scored(lambda s: 0 * s.sum() - len(s)))
    assert report.monotonicity.worst == 1.0
    assert report.monotonicity.broken == report.monotonicity.tried == 100  # of two networks
    assert report.duplication.worst == 1.0
    assert report.bag_copies.worst == 9.0  # the largest bag
    assert report.monotonicity.sizes == (1, 9)


def test_forms_that_need_bags_of_some_size_name_the_sizes():
    def top_3(s):
        return s.topk(min(3, len(s))).values.mean()

    report = structure(lambda: Scored(top_3))
    assert report.monotonicity.status == FAILS
    assert report.monotonicity.sizes == (1, 2)
    assert report.monotonicity.note == "bags of 1 to 2 instances"
    larger = StructureSettings(seeds=2, pairs=100, bags=12, searched=2, sizes=(3, 9))
    assert structure(lambda: Scored(top_3), settings=larger).monotonicity.status == HOLDS


def test_what_random_pairs_miss_the_search_finds():
    """Only instances with features near (6, 6, 6, 6) count against a bag: none is drawn there."""

    class Pit(nn.Module):
        def __init__(self):
            super().__init__()
            self.depth = nn.Parameter(torch.tensor(5.0))

        def forward(self, X):
            near = torch.exp(-(X - 6).square().sum(1) / 2).amax()
            return X[:, 0].amax().clamp(max=-20.0) - self.depth * near

    few = StructureSettings(seeds=1, pairs=20, bags=12, searched=3, sizes=(1, 9))
    report = structure(Pit, settings=few)
    assert report.monotonicity.status == FAILS
    size = len(report.monotonicity.example.bag)
    told = f"found only by the search; bags of {size} to {size} instances"
    assert report.monotonicity.note == told
    assert report.monotonicity.broken == 1
    example = report.monotonicity.example
    assert report.monotonicity.worst == example.before - example.after > 0
    assert (report.monotonicity.example.added - 6).norm() < 4
    assert report.monotonicity.sizes == (len(report.monotonicity.example.bag),) * 2


def test_one_network_that_fails_is_enough():
    def build(seed):
        return adapt(Scored((lambda s: s.amax(), lambda s: s.mean())[seed]), "bag")

    report = check_structure(build, DIM, FEW)
    assert statuses(report)["monotonicity"] == FAILS
    assert statuses(report)["duplication"] == FAILS
    assert report.duplication.tried == 24
    assert report.duplication.broken <= 12


def test_everything_is_tried_where_nothing_fails():
    report = structure(lambda: Scored(lambda s: s.amax()))
    candidates = 6 + 8 + 3 * 8  # kinds, equal features, directions at three lengths
    assert report.monotonicity.tried == 2 * (100 + 2 * candidates)
    assert report.permutation.tried == report.bag_copies.tried == 2 * 12


@pytest.mark.parametrize(("change", "status"), [(5e-6, HOLDS), (5e-5, FAILS)])
def test_what_counts_as_a_change(change, status):
    """A logit of at most 1 that is larger where the largest score comes first."""

    def almost(s):
        return s.amax().tanh() + change * (s[0] == s.amax())

    assert structure(lambda: Scored(almost)).permutation.status == status


def test_batch_norm_is_asked_in_evaluation():
    """In training it refuses a bag of one, and learns from what it sees."""
    kept = []

    class Normed(Scored):
        def __init__(self):
            super().__init__(lambda s: s.amax())
            self.norm = nn.BatchNorm1d(DIM)
            kept.append(self.norm)

        def forward(self, X):
            return super().forward(self.norm(X))

    report = structure(Normed)
    assert not report.notes
    assert report.monotonicity.status == HOLDS
    assert all(norm.num_batches_tracked == 0 for norm in kept)


class Noisy(nn.Module):
    def __init__(self, amount):
        super().__init__()
        self.score = nn.Linear(DIM, 1)
        self.amount = amount

    def forward(self, X):
        return self.score(X).amax() + self.amount * torch.randn(())


def test_random_outputs_are_told_and_nothing_else_is():
    report = structure(lambda: Noisy(0.1))
    assert set(statuses(report).values()) == {NONE}
    assert len(report.notes) == 1
    assert "two calls in evaluation mode differ" in report.notes[0]
    assert report.permutation.note == "random outputs"
    assert structure(lambda: Noisy(1e-9)).permutation.status == HOLDS


def test_dropout_is_no_randomness_in_evaluation():
    class Dropped(Scored):
        def forward(self, X):
            return nn.functional.dropout(super().forward(X), 0.5, self.training)

    assert structure(lambda: Dropped(lambda s: s.amax())).permutation.status == HOLDS


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (lambda s: s.amax().sigmoid(), True),
        (lambda s: s.mean().sigmoid(), True),
        (lambda s: s.amax(), False),
        (lambda s: s.mean().tanh(), False),
        (lambda s: 0.5 + 0.1 * s.mean().tanh(), False),  # logits of a bounded embedding
        (lambda s: 2 * s.mean().sigmoid(), False),
        (lambda s: 0 * s.sum() + 0.5, False),
    ],
)
def test_outputs_that_look_like_probabilities_are_told(end, told):
    notes = structure(lambda: Scored(end)).notes
    assert ["are they probabilities?" in note for note in notes] == [True] * told


@pytest.mark.parametrize("other", [0, 1])
def test_one_network_of_several_is_not_called_a_probability(other):
    def build(seed):
        torch.manual_seed(seed)
        return adapt(
            Scored((lambda s: s.amax().sigmoid(), lambda s: s.amax())[seed == other]), "bag"
        )

    assert not check_structure(build, DIM, FEW).notes


def test_a_module_that_needs_some_instances():
    report = structure(lambda: Scored(lambda s: s.topk(3).values[2]))
    assert report.notes == ("raises on bags of fewer than 3 instances; tested from there on",)
    assert report.monotonicity.status == HOLDS
    with pytest.raises(ValueError, match="raised RuntimeError"):
        structure(lambda: Scored(lambda s: s.topk(30).values[2]))


def test_modules_of_one_precision():
    class Single(Scored):
        def forward(self, X):
            return super().forward(X.float())

    class Half(Scored):
        def __init__(self, function):
            super().__init__(function)
            self.register_buffer("table", torch.ones(1, dtype=torch.float64))

    for kind in (Single, Half):
        report = structure(lambda kind=kind: kind(lambda s: s.logsumexp(0)))
        assert report.monotonicity.status == HOLDS
        assert report.permutation.status == HOLDS
        assert report.duplication.status == FAILS


def test_the_random_state_of_the_caller_is_left_alone():
    torch.manual_seed(5)
    structure(lambda: Scored(lambda s: s.amax()))
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert drawn.equal(torch.rand(3))


def test_one_seed_gives_one_report():
    first, second = (structure(lambda: Scored(attention)).record() for _ in range(2))
    assert json.dumps(finite(first)) == json.dumps(finite(second))


def test_the_published_structural_check():
    """Bags of 45: no pair for these, many for the others; copies change nothing for four."""
    small = {"hidden_sizes": [16], "dropout": 0.0}
    instance, embedding = "models.mil.pooling.InstancePooling", "models.mil.mi_net.MINet"
    learners = {
        "mi-Net": ("models.mil.mi_net.InstanceMINet", small, True, True),
        "top-5": (instance, {"pool": "top_k", "k": 5, **small}, True, False),
        "noisy-OR": (instance, {"pool": "noisy_or", **small}, True, False),
        "MonotoneMax": ("models.mil.monotone.MonotoneMax", {"hidden_sizes": [16]}, True, True),
        "lattice": ("models.mil.monotone.MinMaxLattice", {"hidden_sizes": [16]}, True, True),
        "MI-Net": (embedding, small, False, True),
        "mean": (instance, {"pool": "mean", **small}, False, False),
        "LSE": (instance, {"pool": "lse", "sharpness": 1.0, **small}, False, False),
        "ABMIL": ("models.mil.abmil.ABMIL", {"hidden_sizes": [16]}, False, False),
        "DSMIL": ("models.mil.dsmil.DSMIL", {}, False, False),
    }
    settings = StructureSettings(seeds=2, pairs=100, bags=20, searched=1, sizes=(45, 45))
    for name, (path, arguments, monotone, idempotent) in learners.items():
        report = check_structure(import_model(path, arguments), 16, settings)
        assert (report.monotonicity.broken == 0) is monotone, name
        assert monotone or report.monotonicity.broken > 0.2 * report.monotonicity.tried, name
        assert (report.duplication.status == HOLDS) is idempotent, name
        assert not idempotent or report.duplication.worst < 1e-12, name


@pytest.mark.parametrize(
    ("name", "padding"),
    [("ABMIL", HOLDS), ("CLAM_SB", HOLDS), ("DSMIL", FAILS), ("DTFDMIL", FAILS)],
)
def test_the_masks_of_another_library(name, padding):
    """A finding told in docs/METHODS.md; a release that mends it will fail here."""
    pytest.importorskip("torchmil", reason="torchmil is not installed")
    model = import_model(f"torchmil.models.{name}", {"in_shape": [16], "att_dim": 8})
    found = check_structure(model, 16, StructureSettings(seeds=2, pairs=20, bags=20, searched=1))
    assert found.padding.status == padding
    assert found.monotonicity.status == FAILS
