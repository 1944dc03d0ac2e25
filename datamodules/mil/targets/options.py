"""Where the times and values of bags are found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from structures import MILTask
from structures.tasks import TIME_TASKS, has_classes

EVENT = "event"  # column of the events unless another one is named


class TargetOptions(NamedTuple):
    """Meaning of the targets of a table of slides or of an npz file.

    Attributes:
        task: what the labels are; None for classes.
        time_column: column of the times.
        event_column: column of the events, 1 if the event happened and 0 for a censored time; None
            for ``event``, unless ``censorship_column`` is given.
        censorship_column: column with the opposite meaning, 1 for a censored time.
        target_columns: columns of the values, or names of the targets of an npz file.
        time_bins: K, number of bins of ``discrete_time``.
        labels_needed: whether bags without any target are refused, as are targets that nothing can
            be learnt from. False for prediction and evaluation (A771).
    """

    task: MILTask | None = None
    time_column: str = "time"
    event_column: str | None = None
    censorship_column: str | None = None
    target_columns: Sequence[str] | None = None
    time_bins: int = 4
    labels_needed: bool = True

    @property
    def has_times(self) -> bool:
        """Whether the labels are times."""
        return self.task in TIME_TASKS

    @property
    def apply(self) -> bool:
        """Whether the labels are times or values rather than classes or grades."""
        return self.task is not None and not has_classes(self.task)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a table that hold the labels; empty for classes and grades."""
        if self.has_times:
            return self.time_column, self.censorship_column or self.event_column or EVENT
        return tuple(self.target_columns or ()) if self.apply else ()

    @property
    def num_classes(self) -> int:
        """Number of outputs, which classes have in their place: 1, the bins, or the targets."""
        if self.task == "cox":
            return 1
        return self.time_bins if self.has_times else len(self.target_columns or ())

    def check(self) -> None:
        """Check the options against each other.

        Raises:
            ValueError: options exclude each other, or are of another task.
        """
        if self.event_column is not None and self.censorship_column is not None:
            raise ValueError(
                f"event_column {self.event_column} and censorship_column {self.censorship_column} "
                "say the same in opposite ways; give one of them"
            )
        if self.time_bins < 1:
            raise ValueError(f"time_bins must be at least 1, got {self.time_bins}")
        of_times = {"event_column": self.event_column, "censorship_column": self.censorship_column}
        for name, value in of_times.items():
            if value is not None and not self.has_times:
                raise ValueError(
                    f"{name} is for the tasks cox and discrete_time, not for {_shown(self.task)}; "
                    "set task, or leave it out"
                )
        if self.target_columns is not None and self.task != "regression":
            raise ValueError(
                f"target_columns is for the task regression, not for {_shown(self.task)}; set "
                "task: regression, or leave it out"
            )
        columns = self.columns
        twice = sorted({name for name in columns if columns.count(name) > 1})
        if twice:
            raise ValueError(f"column {twice[0]} is named twice; name each column once")

    def record(self) -> dict[str, Any]:
        """Return the arguments with which other data are read alike; empty for classes."""
        if self.has_times:
            known: dict[str, Any] = {"time_column": self.time_column, "time_bins": self.time_bins}
            known |= {"event_column": self.event_column}
            known |= {"censorship_column": self.censorship_column}
        elif self.apply:
            known = {"target_columns": list(self.target_columns or ())}
        else:
            return {}
        return known | {"labels_needed": False}


def options_of(settings: dict[str, Any]) -> TargetOptions:
    """Return the options among the arguments of a datamodule."""
    return TargetOptions(**{n: settings[n] for n in TargetOptions._fields if n in settings})


def _shown(task: MILTask | None) -> str:
    return "classes" if task is None else f"the task {task}"
