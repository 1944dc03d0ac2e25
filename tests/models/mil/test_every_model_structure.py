"""What each model promises by its form about the order, number and kind of instances.

Random weights, evaluation, every recipe of configs/mil with its own widths
(`evaluation.mil_assumptions.structure` says what the properties mean). A model promises the order
and the batch, unless its class says otherwise, and nothing else: a recipe that claims more is
listed here, and for all others a counter-example has to be found, so that the tests are known to
bite.
"""

import functools

import pytest

from evaluation.mil_assumptions.adapters import adapt
from evaluation.mil_assumptions.structure import StructureSettings, check_structure
from tests.support.mil_recipes import NAMES, WIDTH, build

SETTINGS = StructureSettings(seeds=1, pairs=100, bags=8, searched=1, sizes=(1, 12))
# Each concept or score of an instance enters by its maximum over the bag: further instances never
# lower it and copies don't count.
MAXIMA = ["ins", "max_instance", "mi_net", "min_max_lattice", "monotone_max"]
MONOTONE = [*MAXIMA, "noisy_or_instance"]
# What is pooled by the maximum may still count against a bag.
IDEMPOTENT = [*MAXIMA, "max_embedding", "mi_net_ds", "mi_net_embedding", "mi_net_rc"]
# Scores of instances that the bag's score is computed from: it may fall with none of them. For
# MHIM around DSMIL the highest one counts for half of the prediction.
FROM_SCORES = [
    "mhim_dsmil",
    *("additive", "lse_instance", "max_instance", "mean_instance", "mi_net"),
    *("noisy_or_instance", "top_k_instance"),
]

every_recipe = pytest.mark.parametrize("name", NAMES)


@functools.cache
def report_of(name):
    return check_structure(lambda seed: adapt(build(name).model, "packed", name), WIDTH, SETTINGS)


def status(holds):
    return "holds" if holds else "fails"


def test_the_lists_name_recipes():
    assert {*MONOTONE, *IDEMPOTENT, *FROM_SCORES} <= set(NAMES)


@every_recipe
def test_order_and_batch(name):
    report = report_of(name)
    ordered = not getattr(build(name).model, "permutation_invariant", True)
    assert report.permutation.status == status(not ordered)
    assert report.padding.status == "holds"
    assert not report.notes


@every_recipe
def test_a_further_instance(name):
    found = report_of(name).monotonicity
    assert found.status == status(name in MONOTONE), found
    if name in MONOTONE:
        assert found.tried > 100  # all pairs and a search
    else:
        assert found.example.after < found.example.before - 1e-4


def test_top_k_is_monotone_from_k_instances_on():
    k = build("top_k_instance").model.pool_values.k
    assert report_of("top_k_instance").monotonicity.sizes[1] < k
    larger = StructureSettings(seeds=1, pairs=100, bags=8, searched=1, sizes=(k, k + 5))
    report = check_structure(
        lambda seed: adapt(build("top_k_instance").model, "packed"), WIDTH, larger
    )
    assert report.monotonicity.status == "holds"


@every_recipe
def test_a_copy_of_an_instance(name):
    found = report_of(name).duplication
    assert found.status == status(name in IDEMPOTENT), found
    assert (found.worst < 1e-12) if name in IDEMPOTENT else (found.worst > 1e-3)


@every_recipe
def test_scores_of_instances_count_for_the_bag(name):
    found = report_of(name).gradient_sign
    assert found.status == ("holds" if name in FROM_SCORES else "n/a"), found
