"""The trained tests: votes and verdicts by hand, the training written out, two known answers."""

import copy
import dataclasses
import math
import random
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from evaluation.mil_adapters import adapt, import_model
from evaluation.mil_assumption_bags import concept_bags
from evaluation.mil_assumption_examples import find_example
from evaluation.mil_assumption_text import conclusions, record, sentences, settings_of, trained_rows
from evaluation.mil_assumption_training import (
    AssumptionSettings,
    alone,
    area_under_roc,
    draw_bags,
    train_model,
)
from evaluation.mil_assumptions import (
    AssumptionReport,
    SeedResult,
    check_assumptions,
    run_test,
    verdict_of,
    vote_of,
)
from evaluation.mil_structure import Property, StructureReport

FEW = AssumptionSettings(tests=(1,), seeds=2, train_bags=16, test_bags=8, epochs=2, batch_size=6)
FOREIGN = "tests.foreign.aggregators."


@pytest.mark.parametrize(
    ("train", "test", "found", "vote"),
    [
        (0.90, 0.90, True, "PASS"),
        (1.0, 0.8999, False, "LEGAL-BUT-LIMITED"),
        (0.8999, 1.0, False, "INCONCLUSIVE"),
        (1.0, 0.85, False, "LEGAL-BUT-LIMITED"),
        (1.0, 0.849, False, "INCONCLUSIVE"),
        (0.625, 0.5, False, "LEGAL-BUT-LIMITED"),
        (0.625, 0.5, True, "INCONCLUSIVE"),
        (0.5, 0.625, False, "LEGAL-BUT-LIMITED"),
        (0.62, 0.4999, False, "INCONCLUSIVE"),
        (0.5, 0.66, False, "INCONCLUSIVE"),
        (0.90, 0.50, False, "VIOLATION"),
        (0.8999, 0.0, False, "INCONCLUSIVE"),
        (1.0, 0.5001, False, "INCONCLUSIVE"),
    ],
)
def test_what_one_seed_votes(train, test, found, vote):
    assert vote_of(train, test, found) == vote


def test_a_verdict_needs_every_seed():
    assert verdict_of(["PASS"] * 3) == "PASS"
    assert verdict_of(["PASS", "PASS", "VIOLATION"]) == "INCONCLUSIVE"
    assert verdict_of([]) == "n/a"


def report_of(votes):
    """Return a report whose votes are given as {test: [vote, ...]}; areas count up."""
    results = [
        SeedResult(test, seed, 0.5 + seed / 10, 0.2 + seed / 10, vote, 1.5, None)
        for test, each in votes.items()
        for seed, vote in enumerate(each)
    ]
    nothing = Property("n/a")
    structure = StructureReport(*[nothing] * 6)
    return AssumptionReport("Some", "bag", "", AssumptionSettings(), tuple(results), structure, 1.0)


P, L, V, I = "PASS", "LEGAL-BUT-LIMITED", "VIOLATION", "INCONCLUSIVE"  # noqa: E741


@pytest.mark.parametrize(
    ("votes", "standard", "threshold"),
    [
        ({1: [P, P], 2: [P, P], 3: [P, P]}, True, True),
        ({1: [P, P], 2: [L, L], 3: [I, I]}, True, False),
        ({1: [P, P], 2: [P, P], 3: [V, V]}, False, False),
        ({1: [P, P], 2: [P, P], 3: [P, V]}, False, False),  # one seed is enough to doubt
        ({1: [V, V], 2: [P, P], 3: [P, P]}, False, False),
        ({1: [P, I], 2: [P, P], 3: [P, P]}, None, False),
        ({1: [P]}, True, None),
        ({2: [P], 3: [P]}, None, None),
        ({3: [V]}, False, False),
        ({}, None, None),
    ],
)
def test_what_a_model_respects(votes, standard, threshold):
    report = report_of(votes)
    assert report.respects_standard is standard
    assert report.respects_threshold is threshold


def test_what_is_told():
    report = report_of({1: [P, P, V], 2: [P, P, P]})
    rows = trained_rows(report)
    assert rows[0][1:] == (
        pytest.approx(0.6),
        pytest.approx(0.3),
        "P P V",
        I,
        "4.5",
    )
    assert rows[1][3:5] == ("P P P", "PASS")
    assert rows[2][1:] == (None, None, "-", "n/a", None)
    text = conclusions(report)
    assert "seeds disagree" in text[0]
    assert "counts hits passes as well" in text[1]
    assert "(n/a here)" in text[1]
    assert text[2] == "respects standard MIL: no, a seed or more violates test 1"
    found = record(report)
    assert found["verdicts"] == {"test_1": I, "test_2": P, "test_3": "n/a"}
    assert found["auc"]["test_3"] == {"train": None, "test": None}
    assert found["auc"]["test_2"] == {"train": pytest.approx(0.6), "test": pytest.approx(0.3)}
    assert [seed["vote"] for seed in found["seeds"]["test_1"]] == [P, P, V]
    # the first seed of report_of trains to .50, the fifth and sixth to .90 and more
    assert "does not fit the training bags" in conclusions(report_of({1: [I, I]}))[0]
    fitted = report_of({1: [I] * 6})
    fitted = dataclasses.replace(fitted, results=fitted.results[4:])
    assert "something of the shortcut" in conclusions(fitted)[0]
    one = report_of({1: [P]})
    assert "as far as it goes without test 2, 3" in conclusions(one)[1]


class Linear(nn.Module):
    """The mean of linear scores, dropped out at random; one bag at a time."""

    def __init__(self):
        super().__init__()
        self.score = nn.Linear(16, 1)

    def forward(self, x):
        return F.dropout(self.score(x), 0.5, self.training).mean()


def build_linear(seed):
    torch.manual_seed(seed)
    return adapt(Linear(), "bag")


def test_training_is_the_loop_written_out():
    """The same, with torch's plain optimizer, explicit epochs and a limit on gradients."""
    bags = draw_bags(1, 3, FEW).train
    model = build_linear(0)
    own = copy.deepcopy(model.module)
    torch.manual_seed(5)
    train_model(model, bags, FEW, seed=9)
    torch.manual_seed(5)
    own.train()
    optimizer = torch.optim.AdamW(own.parameters(), lr=1e-3, weight_decay=0.01, foreach=False)
    generator = torch.Generator().manual_seed(9)
    for _ in range(2):
        order = torch.randperm(16, generator=generator).tolist()
        for rows in (order[:6], order[6:12], order[12:]):
            logits = torch.stack([own(bags.features[row]) for row in rows])
            targets = torch.tensor([float(row % 2) for row in rows])
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(logits, targets).backward()
            for p in own.parameters():
                p.grad = torch.where(p.grad.isnan(), torch.zeros(()), p.grad).clip(-5, 5)
            optimizer.step()
    for ours, theirs in zip(model.module.parameters(), own.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_layers_that_take_their_width_from_the_first_bag_are_trained():
    class Lazy(nn.Module):
        def __init__(self):
            super().__init__()
            self.score = nn.LazyLinear(1)

        def forward(self, x):
            x = F.dropout(x, 0.01, self.training)  # would draw before the weights are
            return self.score(x).max()

    model = adapt(Lazy(), "bag")
    with alone(0):
        train_model(model, draw_bags(1, 0, FEW).train, FEW, 0)
    with alone(0):
        same = nn.Linear(16, 1)
    assert not torch.equal(model.module.score.weight, same.weight)
    torch.testing.assert_close(model.module.score.weight, same.weight, rtol=0, atol=7e-3)  # 6 steps


class Spy(nn.Module):
    """Parameters whose gradients are chosen: not a number, infinite, large, and -6."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(4))
        self.weights.register_hook(lambda _: torch.tensor([math.nan, math.inf, 7.0, -6.0]))

    def forward(self, x):
        return self.weights.sum()


def test_gradients_are_limited_and_numbers(monkeypatch):
    seen = []
    step = torch.optim.AdamW.step

    def keep(self, *args, **kwargs):
        seen.append(self.param_groups[0]["params"][0].grad.tolist())
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", keep)
    model = adapt(Spy(), "bag")
    train_model(model, draw_bags(1, 0, FEW).train, FEW, 0)
    assert seen == [[0.0, 5.0, 5.0, -5.0]] * 6  # two epochs of three steps


class Watched(NamedTuple):
    """What a training calls, in order."""

    module: nn.Module
    calls: list
    first: object = None
    adapter: str = "bag"
    permutation_invariant: bool | None = None

    def logits(self, bags):
        self.calls.append(("logits", len(bags), self.module.training))
        return torch.stack([self.module(bag) for bag in bags])

    def loss(self, bags, labels):
        self.calls.append(("loss", labels.tolist(), self.module.training))
        return torch.stack([self.module(bag) for bag in bags]).square().mean()

    def first_stage(self):
        return self.first

    def before_training(self, labels, sizes):
        self.calls.append(("before", labels.tolist(), sizes.tolist()))

    def before_step(self, progress, numbers):
        self.calls.append(("step", progress, numbers.tolist()))

    def after_step(self):
        self.calls.append(("after",))


def test_what_a_model_is_told_and_when():
    calls = []
    first = Watched(Linear(), first_calls := [])
    model = Watched(Linear(), calls, first)
    bags = draw_bags(1, 0, FEW).train
    train_model(model, bags, FEW, 0)
    assert calls[0] == ("before", [0, 1] * 8, [45] * 16)
    assert [call[0] for call in calls[1:]] == ["step", "loss", "after"] * 6
    assert [call[1] for call in calls[1::3]] == pytest.approx([k / 6 for k in range(6)])
    for step, loss in zip(calls[1::3], calls[2::3], strict=True):
        assert loss[1:] == ([number % 2 for number in step[2]], True)
    for epoch in (calls[1:10:3], calls[10::3]):
        assert sorted(number for call in epoch for number in call[2]) == [*range(16)]
    assert len(first_calls) == len(calls)  # the first stage was trained likewise, and before
    assert area_under_roc(model, bags) in np.linspace(0, 1, 129)
    assert calls[-1] == ("logits", 16, False)


def test_area_under_roc_counts_ties_half():
    bags = concept_bags(1, "train", 8, 0)  # the largest of each bag decides; labels 0, 1, 0, 1, ...
    scores = dict(zip(map(id, bags.features), [3, 3, 1, 4, 0, 3, 5, 1], strict=True))
    model = Watched(lambda bag: torch.tensor(float(scores[id(bag)])), [])
    model = model._replace(module=_Scores(scores))
    # pairs (positive, negative): 3 against 3, 1, 0, 5 wins 2.5; 4: 3; 3: 2.5; 1: 1.5 of 16
    assert area_under_roc(model, bags) == pytest.approx((2.5 + 3 + 2.5 + 1.5) / 16)


class _Scores(nn.Module):
    def __init__(self, scores):
        super().__init__()
        self.scores = scores

    def forward(self, bag):
        return torch.tensor(float(self.scores[id(bag)]))


def test_bags_are_scaled_by_the_training_instances_of_their_test():
    bags = draw_bags(2, 4, FEW)
    train, test = (concept_bags(2, split, n, 4) for split, n in (("train", 16), ("test", 8)))
    packed = torch.cat(train.features)
    for scaled, raw in ((bags.train, train), (bags.test, test)):
        expected = (torch.cat(raw.features) - packed.mean(0)) / packed.std(0, correction=0)
        torch.testing.assert_close(torch.cat(scaled.features), expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(scaled.labels, raw.labels)
    back = bags.original(bags.test.features[3])
    torch.testing.assert_close(back, test.features[3], rtol=1e-4, atol=1e-4)


def numbers_of(report):
    return [(r.test, r.seed, r.train_auc, r.test_auc, r.vote) for r in report.results]


def test_results_do_not_depend_on_processes_or_on_what_was_drawn_before():
    build = import_model(FOREIGN + "GatedAttention", {"width": 8})
    settings = AssumptionSettings(
        tests=(3, 1), seeds=2, train_bags=40, test_bags=20, epochs=2, batch_size=8
    )
    told = []
    alone_ = check_assumptions(build, settings, workers=1, progress=lambda *n: told.append(n))
    torch.rand(5)
    np.random.rand(3)
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()
    together = check_assumptions(build, settings, workers=2)
    assert numbers_of(alone_) == numbers_of(together)
    assert [(r.test, r.seed) for r in together.results] == [(3, 0), (3, 1), (1, 0), (1, 1)]
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    single = run_test(build, 1, 1, settings)
    assert single[:5] == alone_.results[3][:5]
    assert len({r[2:4] for r in numbers_of(alone_)}) == 4  # seeds and tests differ
    # the streams and threads of the caller are as they were
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()


def streams():
    return torch.rand(1).item(), np.random.rand(), random.random()


def test_everything_random_is_seeded_and_restored():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with alone(3):
            first = streams()
            assert torch.get_num_threads() == 1
        between = streams()
        with pytest.raises(KeyError), alone(3):
            assert streams() == first
            raise KeyError
        assert torch.get_num_threads() == 2
        assert not set(streams()) & {*first, *between}  # they went on from where they were
        with alone(4):
            assert not set(streams()) & set(first)
    finally:
        torch.set_num_threads(threads)


def test_weights_that_are_drawn_from_numpy_depend_on_the_seed():
    drawn = []

    def remember(seed):
        drawn.append(np.random.rand())
        return build_linear(seed)

    for seed in (1, 2, 1):
        np.random.rand(2)
        run_test(remember, 1, seed, FEW)
    assert drawn[0] == drawn[2] != drawn[1]


def test_a_module_without_parameters_gets_the_structural_tests_alone():
    report = check_assumptions(import_model(FOREIGN + "NothingToTrain"), FEW)
    assert report.results == ()
    assert report.structure.monotonicity.status == "holds"
    assert [row[4] for row in trained_rows(report)] == ["n/a"] * 3
    assert "no parameters to train" in conclusions(report)[0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Broken", "Broken through the adapter bag: its loss was not a number throughout an epoch"),
        ("TooSharp", "TooSharp through the adapter bag: its loss has no gradient: one of the vari"),
        ("Explodes", "16 of 16 bags get a logit that is not a number after training"),
    ],
)
def test_a_model_that_does_not_train_is_named(name, message):
    def build(seed):
        torch.manual_seed(seed)
        return adapt(getattr(__import__(FOREIGN[:-1], fromlist=[name]), name)(), "bag")

    with pytest.raises(ValueError, match=message):
        run_test(build, 1, 0, FEW)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tests": (1, 1)}, "each once"),
        ({"tests": (4,)}, "some of 1, 2, 3"),
        ({"tests": ()}, "some of 1, 2, 3"),
        ({"seeds": 0}, "seeds must be positive"),
        ({"epochs": 0}, "epochs must be positive"),
        ({"batch_size": 0}, "batch_size must be positive"),
    ],
)
def test_wrong_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        AssumptionSettings(**change)


def test_settings_of_a_command_line():
    settings = settings_of((3, 1, 3), 2, 100, 7)
    assert (settings.tests, settings.seeds, settings.epochs) == ((1, 3), 2, 7)
    assert (settings.train_bags, settings.test_bags) == (100, 50)
    with pytest.raises(ValueError, match="--bags 7"):
        settings_of((1,), 1, 7, 1)


def test_defaults_are_those_of_the_command():
    settings = AssumptionSettings()
    assert (settings.train_bags, settings.test_bags, settings.size, settings.dim) == (
        2000,
        1000,
        45,
        16,
    )
    assert (settings.epochs, settings.batch_size, settings.seeds) == (12, 32, 3)
    assert (settings.learning_rate, settings.weight_decay, settings.largest_gradient) == (
        1e-3,
        0.01,
        5,
    )


class AgainstPoison(nn.Module):
    """Minus the number of instances whose mean is far below; features standardised by the bags."""

    def __init__(self, bags, largest=False):
        super().__init__()
        self.bags, self.largest = bags, largest

    def forward(self, x):
        raw = self.bags.original(x.float()).mean(1)
        return raw.max() if self.largest else -(raw < -5).sum().float()


def test_an_example_is_told_in_kinds_and_units():
    bags = draw_bags(1, 0, AssumptionSettings(train_bags=40, test_bags=20))
    found = find_example(adapt(AgainstPoison(bags), "bag"), bags, 1)
    assert found.added == "poison"
    assert found.values == pytest.approx([-10] * 16, abs=0.6)
    assert found.after == found.before - 1
    assert sum(found.contents.values()) == 45
    special = {k: n for k, n in found.contents.items() if k != "background"}
    assert sum(special.values()) == len(found.rows)
    for kind, values in found.rows:  # in the units that they were drawn in
        mean, std = {"poison": (-10, 0.1), "indicator": (0, 3)}[kind]
        assert np.mean(values) == pytest.approx(mean, abs=std)
        assert np.std(values) == pytest.approx(std, rel=0.7)
    sign = "positive" if found.label else "negative"
    assert f"a {sign} {found.split} bag (" in found.describe()
    assert "one more instance, poison, it has" in found.describe()
    # the bag is one of those that were drawn
    part = bags.train if found.split == "train" else bags.test
    kinds = {"indicator": 2, "poison": 1}
    matching = [
        b
        for b in range(len(part.features))
        if int(part.labels[b]) == found.label
        and all((part.kinds_of(b) == kinds[k]).sum() == n for k, n in special.items())
    ]
    assert matching
    lines = found.table()
    assert lines[-1][0] == "added: poison"
    assert float(lines[-1][1]) == pytest.approx(-10, abs=0.1)
    assert lines[-2][0] == f"{found.contents['background']} background instances"
    assert find_example(adapt(AgainstPoison(bags, largest=True), "bag"), bags, 1) is None


@pytest.mark.parametrize(
    ("name", "vote"), [("models.mil.mi_net.InstanceMINet", P), ("models.mil.abmil.ABMIL", V)]
)
def test_mi_net_keeps_the_standard_assumption_and_abmil_does_not(name, vote):
    build = import_model(name, {"hidden_sizes": [32, 32], "dropout": 0.0})
    settings = AssumptionSettings(
        tests=(1,), seeds=1, train_bags=800, test_bags=300, epochs=12, learning_rate=3e-3
    )
    report = check_assumptions(build, settings, workers=1)
    assert report.verdict(1) == vote
    example = report.results[0].example
    assert (example is None) == (vote == P)
    if example is not None:
        assert example.added == "poison"
        assert "poison" in "\n".join([*sentences(report), example.describe()])
