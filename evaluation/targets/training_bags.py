"""What a model of times keeps of its training bags: censoring, risks and Breslow's baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluation.targets.censoring import BoolArray, Breslow, FloatArray, breslow
from evaluation.targets.tables import SurvivalReference
from structures import MILTask

# Risks are kept as quantiles at k / 840, since 840 is a multiple of every number of groups up to 8:
# their cuts are those of the risks themselves.
_STEPS = 840


@dataclass(frozen=True, slots=True)
class TrainingBags:
    """Facts of the training bags of one training or fold.

    Attributes:
        time: (m,) times in the user's unit.
        event: (m,) True for an event.
        risk: quantiles of the predicted risks, ascending; None before the model is trained.
        baseline: Breslow's baseline of ``cox``, else None.
    """

    time: FloatArray
    event: BoolArray
    risk: FloatArray | None = None
    baseline: Breslow | None = None

    @classmethod
    def of(cls, labels: npt.ArrayLike) -> TrainingBags:
        """Return the facts that are known before a training, of (m, 2) times and events."""
        array = np.asarray(labels, dtype=np.float64)
        return cls(array[:, 0].copy(), array[:, 1] == 1)

    def without_risks(self) -> TrainingBags:
        """Return what does not depend on the weights of the model."""
        return replace(self, risk=None, baseline=None)

    def with_risks(self, risk: npt.ArrayLike, task: MILTask) -> TrainingBags:
        """Return the facts with those of the trained model.

        Args:
            risk: (m,) finite risks of the training bags, in eval mode.
            task: ``cox``, which gets a baseline, or ``discrete_time``, whose model predicts
                survival itself.
        """
        found = np.asarray(risk, dtype=np.float64)
        baseline = breslow(self.time, self.event, found) if task == "cox" else None
        kept = np.sort(found)
        if found.size > _STEPS:  # A786
            kept = np.quantile(found, np.arange(_STEPS + 1) / _STEPS)
        return replace(self, risk=kept, baseline=baseline)

    @property
    def reference(self) -> SurvivalReference:
        """What the scores take from the training bags."""
        return SurvivalReference(self.time, self.event, self.risk)

    def plain(self) -> dict[str, Any]:
        """Return plain containers for a checkpoint; see `from_plain`."""
        found: dict[str, Any] = {"time": self.time.tolist(), "event": self.event.tolist()}
        if self.risk is not None:
            found["risk"] = self.risk.tolist()
        if self.baseline is not None:
            found["baseline"] = {k: v.tolist() for k, v in self.baseline._asdict().items()}
        return found

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> TrainingBags:
        """Return what `plain` has written.

        Raises:
            KeyError: a field is missing.
        """
        base, risk = content.get("baseline"), content.get("risk")
        time = np.asarray(content["time"], dtype=np.float64)
        return cls(
            time,
            np.asarray(content["event"], dtype=bool),
            None if risk is None else np.asarray(risk, dtype=np.float64),
            None if base is None else Breslow(*(np.asarray(base[n], dtype=np.float64)
                                                for n in Breslow._fields)),
        )  # fmt: skip
