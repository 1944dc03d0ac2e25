"""Algorithmic unit tests of whether multiple-instance models respect the MIL assumption.

Raff & Holt, "Reproducibility in Multiple Instance Learning: A Case For Algorithmic Unit Tests",
NeurIPS 2023. A model is trained on bags in which an illegal shortcut is easier than the legal rule
(`evaluation.mil_assumptions.bags`), and tested on bags in which the shortcut is reversed. With a
and t the areas under the ROC curve of training and test bags, one seed votes

    PASS               a >= .90 and t >= .90
    LEGAL-BUT-LIMITED  .50 <= t < .90, |a - t| <= .15, and the search found no bag whose score falls
                       with an added instance: the model cannot express the rule, but did not cheat
    VIOLATION          a >= .90 and t <= .50: the model learnt the shortcut
    INCONCLUSIVE       anything else

The thresholds are our choice (A158). A verdict needs the same vote of every seed, else it is
INCONCLUSIVE. A model respects standard MIL if it passes test 1 and no seed of any test votes
VIOLATION, and threshold MIL if it passes all three tests. Test 2 alone is not informative: a model
that counts hits passes it, and only test 3 distinguishes counting from presence. Verdicts of tests
2 and 3 may depend on the seed and on the layers before the pooling if both rule and shortcut can be
learnt (A161).
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from evaluation.mil_assumptions.bag_models import BuildModel
from evaluation.mil_assumptions.bags import TestNumber
from evaluation.mil_assumptions.examples import FoundExample, find_example
from evaluation.mil_assumptions.structure import StructureReport, check_structure
from evaluation.mil_assumptions.training import AssumptionSettings, alone, train_on_test

Vote = Literal["PASS", "LEGAL-BUT-LIMITED", "VIOLATION", "INCONCLUSIVE"]
Verdict = Vote | Literal["n/a"]
_GOOD, _CHANCE, _NEAR = 0.90, 0.50, 0.15


class SeedResult(NamedTuple):
    """The result of one test with one seed.

    Attributes:
        test: 1, 2 or 3.
        seed: seed of bags, weights and training.
        train_auc: area under the ROC curve of the training bags, in [0, 1].
        test_auc: area under the ROC curve of the test bags, in [0, 1].
        vote: vote of this seed.
        seconds: time of training, scoring and the search.
        example: a bag whose score falls with an added instance, or None if none was found.
    """

    test: TestNumber
    seed: int
    train_auc: float
    test_auc: float
    vote: Vote
    seconds: float
    example: FoundExample | None


@dataclass(frozen=True, slots=True)
class AssumptionReport:
    """The results of all tests.

    Attributes:
        model: class name of the module.
        adapter: name of the adapter.
        choice: reason for the choice of the adapter, or empty.
        settings: settings of the training.
        results: one result per test and seed; empty if the model has nothing to train.
        structure: report on the untrained model.
        seconds: total wall time.
    """

    model: str
    adapter: str
    choice: str
    settings: AssumptionSettings
    results: tuple[SeedResult, ...]
    structure: StructureReport
    seconds: float

    def of_test(self, test: TestNumber) -> list[SeedResult]:
        """Return the results of one test by seed."""
        return [result for result in self.results if result.test == test]

    def votes(self, test: TestNumber) -> list[Vote]:
        """Return the vote of each seed for a test."""
        return [result.vote for result in self.of_test(test)]

    def auc(self, test: TestNumber) -> dict[str, float | None]:
        """Return the mean ``train`` and ``test`` AUC over the seeds; None if not run."""
        results = self.of_test(test)
        if not results:
            return {"train": None, "test": None}
        return {
            "train": sum(result.train_auc for result in results) / len(results),
            "test": sum(result.test_auc for result in results) / len(results),
        }

    def verdict(self, test: TestNumber) -> Verdict:
        """Return the verdict of a test; n/a if it was not run."""
        return verdict_of(self.votes(test))

    @property
    def respects_standard(self) -> bool | None:
        """Return whether the model respects standard MIL; None if the tests cannot decide."""
        if any(result.vote == "VIOLATION" for result in self.results):
            return False
        return True if self.verdict(1) == "PASS" else None

    @property
    def respects_threshold(self) -> bool | None:
        """Return whether the model respects threshold MIL; None if a test was not run."""
        verdicts = [self.verdict(test) for test in (1, 2, 3)]
        if "n/a" in verdicts and "VIOLATION" not in verdicts:
            return None
        return all(verdict == "PASS" for verdict in verdicts)


def vote_of(train_auc: float, test_auc: float, counter_example: bool) -> Vote:
    """Return the vote of one seed.

    Args:
        train_auc: area under the ROC curve of the training bags.
        test_auc: area under the ROC curve of the test bags.
        counter_example: True if an added instance was found that lowers the score of a bag.

    >>> vote_of(0.83, 0.84, counter_example=False)
    'LEGAL-BUT-LIMITED'
    """
    if train_auc >= _GOOD and test_auc >= _GOOD:
        return "PASS"
    if train_auc >= _GOOD and test_auc <= _CHANCE:
        return "VIOLATION"
    near = abs(train_auc - test_auc) <= _NEAR + 1e-9  # rounding of 1 - .85
    limited = near and _CHANCE <= test_auc < _GOOD
    return "LEGAL-BUT-LIMITED" if limited and not counter_example else "INCONCLUSIVE"


def verdict_of(votes: Sequence[Vote]) -> Verdict:
    """Return the common vote of all seeds, INCONCLUSIVE if they differ, n/a without seeds."""
    if not votes:
        return "n/a"
    return votes[0] if len(set(votes)) == 1 else "INCONCLUSIVE"


def run_test(
    build: BuildModel, test: TestNumber, seed: int, settings: AssumptionSettings
) -> SeedResult:
    """Train and evaluate a model on one test with one seed.

    Args:
        build: function that builds the model with the weights of a seed.
        test: 1, 2 or 3.
        seed: not negative.
        settings: settings of the training.

    Returns:
        The result, which is the same in any process, as it uses one thread and its own seeds.

    Raises:
        ValueError: the model cannot be trained, or does not match its adapter.
    """
    start = time.perf_counter()
    with alone(seed):
        trained = train_on_test(build, test, seed, settings)
        example = find_example(trained.model, trained.bags, test)
    vote = vote_of(trained.train_auc, trained.test_auc, example is not None)
    seconds = time.perf_counter() - start
    return SeedResult(test, seed, trained.train_auc, trained.test_auc, vote, seconds, example)


def check_assumptions(
    build: BuildModel,
    settings: AssumptionSettings | None = None,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AssumptionReport:
    """Run the structural tests and the trained tests.

    Args:
        build: picklable function that builds the model with the weights of a seed.
        settings: settings of the training; None for the defaults.
        workers: number of processes, which does not affect results; None for the number of threads
            of torch.
        progress: called with the numbers of finished results and all results after each result.

    Raises:
        ValueError: the model cannot be trained, or does not match its adapter.
    """
    start = time.perf_counter()
    settings = settings or AssumptionSettings()
    with alone(0):
        model = build(0)
        structure = check_structure(build, settings.dim)
    trainable = any(p.requires_grad for p in model.module.parameters())
    seeds = range(settings.seeds) if trainable else range(0)
    jobs = [(test, seed) for test in settings.tests for seed in seeds]
    results = []
    for result in _results(build, jobs, settings, workers):
        results.append(result)
        if progress is not None:
            progress(len(results), len(jobs))
    return AssumptionReport(
        type(getattr(model, "network", model.module)).__name__,
        model.adapter,
        getattr(build, "choice", ""),
        settings,
        tuple(results),
        structure,
        time.perf_counter() - start,
    )


def _results(
    build: BuildModel,
    jobs: Sequence[tuple[TestNumber, int]],
    settings: AssumptionSettings,
    workers: int | None,
) -> Iterator[SeedResult]:
    """Yield the result of each (test, seed) in order."""
    run = functools.partial(_run_job, build, settings)
    workers = min(workers or torch.get_num_threads(), len(jobs))
    if workers <= 1:
        yield from map(run, jobs)
        return
    with ProcessPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.map(run, jobs)


def _run_job(
    build: BuildModel, settings: AssumptionSettings, job: tuple[TestNumber, int]
) -> SeedResult:
    return run_test(build, *job, settings)
