"""Training and scoring of an aggregator on the bags of one algorithmic unit test.

The protocol follows the published code (Raff & Holt, NeurIPS 2023) with a smaller budget (A159):
features standardised by all training instances, AdamW, cross-entropy of the bags, NaN gradients set
to 0 and all gradients limited to +-5, and the area under the ROC curve with the weights of the last
step. Bags of both classes alternate in the data, and every epoch has a new random order.

All random numbers depend only on (test, seed), and each test and seed runs in one thread, so that
the result is the same in any process (A162).
"""

from __future__ import annotations

import contextlib
import functools
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from evaluation.mil.metrics import auroc
from evaluation.mil_assumptions.bag_models import BagModel, BuildModel
from evaluation.mil_assumptions.bags import AssumptionBags, Indicator, TestNumber, concept_bags

_SCORED_AT_ONCE = 250  # bags per call


@dataclass(frozen=True, slots=True, kw_only=True)
class AssumptionSettings:
    """Settings of the trained tests.

    Attributes:
        tests: the tests to run, out of 1, 2 and 3.
        seeds: number of seeds, from 0 on.
        train_bags: training bags of a test.
        test_bags: test bags of a test.
        size: instances of every bag.
        dim: D, features of an instance.
        indicator: indicator of test 1, see `concept_bags`.
        epochs: passes over the training bags.
        batch_size: bags of a step; the last step of an epoch has the remaining bags.
        learning_rate: learning rate of AdamW.
        weight_decay: weight decay of AdamW.
        largest_gradient: limit of each entry of a gradient.

    Raises:
        ValueError: a test is unknown or given twice, or a number is not positive.
    """

    tests: tuple[TestNumber, ...] = (1, 2, 3)
    seeds: int = 3
    train_bags: int = 2000
    test_bags: int = 1000
    size: int = 45
    dim: int = 16
    indicator: Indicator = "subtle"
    epochs: int = 12
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    largest_gradient: float = 5.0

    def __post_init__(self) -> None:
        if not self.tests or set(self.tests) - {1, 2, 3} or len(set(self.tests)) < len(self.tests):
            raise ValueError(f"tests must be different numbers out of 1, 2, 3; got {self.tests}")
        for name in ("seeds", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class DrawnBags:
    """Standardised bags of one test.

    Attributes:
        train: training bags.
        test: test bags.
        mean: (D,) mean of all training instances before standardisation.
        std: (D,) standard deviation of all training instances before standardisation.
    """

    train: AssumptionBags
    test: AssumptionBags
    mean: Tensor
    std: Tensor

    def original(self, features: Tensor) -> Tensor:
        """Return standardised features (..., D) in the units that the bags were drawn in."""
        return self.mean + self.std * features


def draw_bags(test: TestNumber, seed: int, settings: AssumptionSettings) -> DrawnBags:
    """Draw the bags of one test and standardise them by all training instances."""
    draw = functools.partial(
        concept_bags, test, size=settings.size, dim=settings.dim, indicator=settings.indicator
    )
    train = draw("train", settings.train_bags, seed)
    held_out = draw("test", settings.test_bags, seed)
    mean, std = train.statistics()
    return DrawnBags(train.scaled(mean, std), held_out.scaled(mean, std), mean, std)


def train_model(
    model: BagModel, bags: AssumptionBags, settings: AssumptionSettings, seed: int
) -> None:
    """Train a model on bags, after its first stage if it has one.

    Args:
        model: model with initial weights; changed in place.
        bags: standardised training bags.
        settings: settings of the training.
        seed: seed of the order of the bags; dropout and the like use the generator of torch.

    Raises:
        ValueError: the loss has no gradient, or is not finite in a whole epoch.
    """
    first = model.first_stage()
    if first is not None:
        train_model(first, bags, settings, seed)
    _fill_lazy(model, bags)
    weights = [p for p in model.module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        weights, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    model.before_training(bags.labels, bags.sizes)
    model.module.train()
    generator = torch.Generator().manual_seed(seed)
    count, done = len(bags.labels), 0
    steps = settings.epochs * math.ceil(count / settings.batch_size)
    for _ in range(settings.epochs):
        learnt = False
        order = torch.randperm(count, generator=generator)
        for rows in torch.split(order, settings.batch_size):
            model.before_step(done / steps, rows)
            optimizer.zero_grad()
            loss = model.loss([bags.features[row] for row in rows.tolist()], bags.labels[rows])
            _backward(loss, model)
            _limit_gradients(weights, settings.largest_gradient)
            optimizer.step()
            model.after_step()
            done += 1
            learnt = learnt or math.isfinite(loss.item())
        if not learnt:
            raise ValueError(
                f"{name_of(model)}: its loss was not a number throughout an epoch; look for "
                "overflow or a division by zero in it"
            )


def _fill_lazy(model: BagModel, bags: AssumptionBags) -> None:
    """Call a module with lazy parameters once, so that they get their shapes."""
    if any(nn.parameter.is_lazy(p) for p in model.module.parameters()):
        model.module.eval()
        with torch.no_grad():
            model.logits(bags.features[:1])


def _backward(loss: Tensor, model: BagModel) -> None:
    try:
        loss.backward()  # type: ignore[no-untyped-call]
    except RuntimeError as error:  # raised by torch
        raise ValueError(f"{name_of(model)}: its loss has no gradient: {error}") from error


def _limit_gradients(weights: list[nn.Parameter], largest: float) -> None:
    for weight in weights:
        if weight.grad is not None:
            weight.grad.nan_to_num_(0.0).clamp_(-largest, largest)


def score_bags(model: BagModel, bags: AssumptionBags) -> Tensor:
    """Return the logit of each bag in evaluation mode, (B,) float64.

    Raises:
        ValueError: a logit is not a number.
    """
    model.module.eval()
    with torch.no_grad():
        parts = [
            model.logits(bags.features[start : start + _SCORED_AT_ONCE]).double()
            for start in range(0, len(bags.features), _SCORED_AT_ONCE)
        ]
    logits = torch.cat(parts)
    bad = int((~logits.isfinite()).sum())
    if bad:
        raise ValueError(
            f"{name_of(model)}: {bad} of {len(logits)} bags get a logit that is not a number after "
            "training; look for overflow in it, or train it for fewer epochs"
        )
    return logits


def area_under_roc(model: BagModel, bags: AssumptionBags) -> float:
    """Return the area under the ROC curve of the bags; ties count half."""
    scores = score_bags(model, bags).numpy()
    return float(auroc(bags.labels.numpy() == 1, scores, np.ones((1, len(scores))))[0])


def name_of(model: BagModel) -> str:
    """Return the name of a model for messages."""
    network = getattr(model, "network", model.module)  # the model inside a recipe's module
    return f"{type(network).__name__} through the adapter {model.adapter}"


@contextlib.contextmanager
def alone(seed: int) -> Iterator[None]:
    """Run with one thread and all random generators seeded, and restore them afterwards."""
    threads, numpy_state, python_state = (
        torch.get_num_threads(),
        np.random.get_state(),
        random.getstate(),
    )
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            np.random.seed(seed)  # foreign modules may use these two generators
            random.seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)
        np.random.set_state(numpy_state)
        random.setstate(python_state)


@dataclass(frozen=True, slots=True)
class Trained:
    """A model that was trained on one test.

    Attributes:
        model: the model in evaluation mode.
        bags: its training and test bags.
        train_auc: area under the ROC curve of the training bags.
        test_auc: area under the ROC curve of the test bags.
        seconds: time of training and scoring.
    """

    model: BagModel
    bags: DrawnBags
    train_auc: float
    test_auc: float
    seconds: float


def train_on_test(
    build: BuildModel, test: TestNumber, seed: int, settings: AssumptionSettings
) -> Trained:
    """Build a model, train it on one test and score it; must be called within `alone`."""
    start = time.perf_counter()
    bags = draw_bags(test, seed, settings)
    model = build(seed)
    train_model(model, bags.train, settings, seed)
    areas = [area_under_roc(model, split) for split in (bags.train, bags.test)]
    return Trained(model, bags, areas[0], areas[1], time.perf_counter() - start)
