"""The part of a multiple-instance module that knows times, values and grades."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from evaluation.mil.collector import BagScores
from evaluation.targets.bags import TargetPredictions
from evaluation.targets.from_scores import target_predictions
from evaluation.targets.training_bags import TrainingBags
from lightning_modules.base import TrainedModule
from lightning_modules.targets.after_training import complete_checkpoints
from structures import BagBatch, MILOutput, MILTask, TargetCoding
from structures.tasks import TIME_TASKS


class TargetModule(TrainedModule):
    """Base of `MILModule`: coding of labels, facts of the training bags, predictions in units.

    Attributes:
        target_coding: coding of times and values, fitted on the training bags; None for the other
            tasks.
        training_bags: what scores of times take from the training bags, or None.
        target_names: names of the values of ``regression``, or empty.
        class_names: names of classes or grades, or empty.
    """

    target_coding: TargetCoding | None = None
    training_bags: TrainingBags | None = None
    target_names: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()

    @property
    def task(self) -> MILTask:
        """What the logits mean."""
        raise NotImplementedError

    def fit_targets(
        self, labels: npt.NDArray[Any], num_classes: int, names: Sequence[str] = ()
    ) -> None:
        """Fit the coding of times and values on the labels of the training bags.

        Args:
            labels: see `TargetCoding.fit`.
            num_classes: bins or targets.
            names: names of the targets.

        Raises:
            ValueError: see `TargetCoding.fit`.
        """
        self.target_coding = TargetCoding.fit(self.task, labels, num_classes, names=names)
        self.target_names = tuple(names)
        if self.task in TIME_TASKS:
            self.training_bags = TrainingBags.of(labels)

    def coded(self, bags: BagBatch) -> BagBatch:
        """Return the bags with labels as models see them; the bags themselves for classes."""
        if self.target_coding is None or self.task not in ("discrete_time", "regression"):
            return bags
        return dataclasses.replace(bags, labels=self.target_coding.coded(bags.labels))

    def predicted(self, output: MILOutput) -> Tensor:
        """Return `MILOutput.predictions`, values in the user's units (float64)."""
        found = output.predictions(self.task)
        if self.task != "regression" or self.target_coding is None:
            return found
        return torch.from_numpy(self.target_coding.decoded(found.detach().cpu().double().numpy()))

    def target_predictions(self, scores: BagScores) -> TargetPredictions:
        """Return the predictions of bags of times, values or grades, ready to be scored.

        Args:
            scores: rows whose ``probabilities`` are those of `predicted`.
        """
        names = self.class_names if self.task == "ordinal" else self.target_names
        return target_predictions(scores, self.task, self.target_coding, self.training_bags, names)

    def target_facts(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of the targets; see `restore_target_facts`."""
        coding, bags = self.target_coding, self.training_bags
        return {
            **({} if coding is None else {"target_coding": coding.plain()}),
            **({} if bags is None else {"training_bags": bags.plain()}),
            **({"target_names": list(self.target_names)} if self.target_names else {}),
        }

    def restore_target_facts(self, facts: Mapping[str, Any]) -> None:
        """Restore what `target_facts` has returned."""
        if "target_coding" in facts:
            self.target_coding = TargetCoding.from_plain(facts["target_coding"])
        if "training_bags" in facts:
            self.training_bags = TrainingBags.from_plain(facts["training_bags"])
        self.target_names = tuple(facts.get("target_names", self.target_names))

    def on_fit_start(self) -> None:
        """Forget what the model of a resumed checkpoint said of the training bags."""
        super().on_fit_start()
        if self.training_bags is not None:
            self.training_bags = self.training_bags.without_risks()

    def on_fit_end(self) -> None:
        """Have the checkpoints say what their models predict for the training bags."""
        complete_checkpoints(self)
