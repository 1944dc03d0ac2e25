"""The trained tests: votes and verdicts by hand, what is told of them, two known answers."""

import dataclasses

import numpy as np
import pytest
import torch

from evaluation.mil_assumptions.adapters import adapt, import_model
from evaluation.mil_assumptions.structure import Property, StructureReport
from evaluation.mil_assumptions.suite import (
    AssumptionReport,
    SeedResult,
    check_assumptions,
    run_test,
    verdict_of,
    vote_of,
)
from evaluation.mil_assumptions.text import (
    conclusions,
    record,
    sentences,
    settings_of,
    trained_rows,
)
from evaluation.mil_assumptions.training import AssumptionSettings

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
    assert "counts hits also passes" in text[1]
    assert "(n/a here)" in text[1]
    assert text[2] == "respects standard MIL: no, at least one seed violates test 1"
    found = record(report)
    assert found["verdicts"] == {"test_1": I, "test_2": P, "test_3": "n/a"}
    assert found["auc"]["test_3"] == {"train": None, "test": None}
    assert found["auc"]["test_2"] == {"train": pytest.approx(0.6), "test": pytest.approx(0.3)}
    assert [seed["vote"] for seed in found["seeds"]["test_1"]] == [P, P, V]
    # the first seed of report_of trains to .50, the fifth and sixth to .90 and more
    assert "does not fit the training bags" in conclusions(report_of({1: [I, I]}))[0]
    fitted = report_of({1: [I] * 6})
    fitted = dataclasses.replace(fitted, results=fitted.results[4:])
    assert "both the rule and the shortcut" in conclusions(fitted)[0]
    one = report_of({1: [P]})
    assert "but without test 2, 3" in conclusions(one)[1]


def numbers_of(report):
    return [(r.test, r.seed, r.train_auc, r.test_auc, r.vote) for r in report.results]


@pytest.mark.slow
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


def test_settings_of_a_command_line():
    settings = settings_of((3, 1, 3), 2, 100, 7)
    assert (settings.tests, settings.seeds, settings.epochs) == ((1, 3), 2, 7)
    assert (settings.train_bags, settings.test_bags) == (100, 50)
    with pytest.raises(ValueError, match="--bags 7"):
        settings_of((1,), 1, 7, 1)


@pytest.mark.slow
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
