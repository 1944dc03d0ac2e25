"""The verdicts of the algorithmic unit tests at their full budget, one seed: the controls bite."""

from concurrent.futures import ProcessPoolExecutor

import pytest
import torch

from evaluation.mil_adapters import import_model
from evaluation.mil_assumptions import AssumptionSettings, run_test

pytestmark = pytest.mark.slow

TRUNK = {"hidden_sizes": [64, 64, 64], "dropout": 0.5}
NOISY_OR = {**TRUNK, "pool": "noisy_or", "first_bias": -3.8}  # near -log 45
FOREIGN = "tests.foreign.aggregators."
CELLS = [
    ("models.mil.mi_net.InstanceMINet", TRUNK, None, {1: "PASS", 2: "LEGAL-BUT-LIMITED"}),
    ("models.mil.monotone.MonotoneMax", {}, None, {1: "PASS", 2: "PASS", 3: "PASS"}),
    ("models.mil.monotone.MinMaxLattice", {}, None, {1: "PASS", 3: "PASS"}),
    ("models.mil.mi_net.MINet", TRUNK, None, {1: "VIOLATION", 2: "VIOLATION"}),
    ("models.mil.abmil.ABMIL", TRUNK, None, {1: "VIOLATION"}),
    ("models.mil.pooling.EmbeddingPooling", {**TRUNK, "pool": "mean"}, None, {3: "VIOLATION"}),
    ("models.mil.pooling.InstancePooling", NOISY_OR, None, {3: "VIOLATION"}),
    # modules that know nothing of this repository, by their dotted name
    (FOREIGN + "MaxOfScores", {"width": 64}, "bag", {1: "PASS"}),
    (FOREIGN + "PaddedMaxOfScores", {"width": 64}, "batch", {1: "PASS"}),
    (FOREIGN + "GatedAttention", {"width": 64}, "bag", {1: "VIOLATION"}),
    ("torchmil.models.ABMIL", {"in_shape": [16]}, "batch", {1: "VIOLATION"}),
]
EACH = [(*cell[:3], test, verdict) for cell in CELLS for test, verdict in cell[3].items()]


def run(name, init_args, adapter, test):
    return run_test(import_model(name, init_args, adapter), test, 0, AssumptionSettings())


@pytest.fixture(scope="module")
def results():
    """Start all of them in processes; each test waits for its own."""
    with ProcessPoolExecutor(2, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield {cell[0::3]: pool.submit(run, *cell[:4]) for cell in EACH}


@pytest.mark.parametrize(
    ("name", "init_args", "adapter", "test", "verdict"),
    EACH,
    ids=[f"{cell[0].rpartition('.')[2]}-{cell[3]}" for cell in EACH],
)
def test_verdicts_at_the_full_budget(results, name, init_args, adapter, test, verdict):
    if name.startswith("torchmil"):
        pytest.importorskip("torchmil")
    found = results[name, test].result()
    assert found.vote == verdict
    legal = verdict in ("PASS", "LEGAL-BUT-LIMITED")
    counts = "InstancePooling" in name  # monotone, though it counts
    assert (found.example is None) == (legal or counts)
