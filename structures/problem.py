"""What is wrong with the user's data: one record a fault, and what becomes of them.

Every reader of files collects its findings as `Problem` records, so that a set's faults are told
together and `evaluate.py check-data` can write them as a table.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

BadDataPolicy = Literal["error", "skip"]
SHOWN = 20  # problems that a message lists

# What makes one reason differ from another of its kind: names, lists, paths, numbers
_VALUES = re.compile(r"'[^']*'|\[[^\]]*\]|\([^)]*\)|\S*/\S*|-?\b\d[\d.]*\b|\bnan\b|-?\binf\b")

_log = logging.getLogger(__name__)


class Problem(NamedTuple):
    """One thing that is wrong: where, what, and what to do about it.

    Attributes:
        file: the file that holds the fault, or that names what is missing.
        item: id of the image, slide, bag or patient, or None where the whole file is concerned.
        annotation: id of the annotation or number of the row, or None.
        reason: what is wrong, with the value found.
        remedy: what the user can do.
        kind: what ``item`` is, for the message.
        part: what ``annotation`` is, for the message.
    """

    file: Path
    item: int | str | None
    annotation: int | str | None
    reason: str
    remedy: str
    kind: str = "image"
    part: str = "annotation"

    def __str__(self) -> str:
        where = [str(self.file)]
        if self.item is not None:
            where.append(f"{self.kind} {self.item}")
        if self.annotation is not None:
            where.append(f"{self.part} {self.annotation}")
        return f"{', '.join(where)}: {self.reason}; {self.remedy}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values for JSON."""
        return self._asdict() | {"file": str(self.file)}


class DataProblems(ValueError):  # noqa: N818  several, not one
    """The data are wrong; the message lists up to 20 problems, ``problems`` holds them all.

    Args:
        problems: at least one.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        lines = [str(problem) for problem in problems[:SHOWN]]
        if len(problems) > SHOWN:
            lines.append(
                f"... and {len(problems) - SHOWN} more; `evaluate.py check-data` lists them all"
            )
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[type[DataProblems], tuple[tuple[Problem, ...]]]:
        """Have the problems, not the message, make it anew on its way out of another process."""
        return type(self), (self.problems,)


def settle(problems: Iterable[Problem], policy: BadDataPolicy) -> tuple[Problem, ...]:
    """Stop at problems, or count them by file and kind of reason in the log and go on.

    Args:
        problems: what was found in a set, possibly nothing.
        policy: ``error`` to stop; ``skip`` where the caller leaves out what is concerned.

    Returns:
        The problems, all of which the caller has to leave out.

    Raises:
        DataProblems: there is a problem and the policy is ``error``.
    """
    found = tuple(problems)
    if found and policy == "error":
        raise DataProblems(found)
    by_file: dict[Path, list[Problem]] = {}
    for problem in found:
        by_file.setdefault(problem.file, []).append(problem)
    for file, listed in list(by_file.items())[:SHOWN]:
        kinds = Counter(_VALUES.sub("...", problem.reason) for problem in listed)
        told = "; ".join(f"{count} x {kind}" for kind, count in kinds.most_common(SHOWN))
        _log.warning(
            "%s: %d problem(s) skipped (%s), the first: %s", file, len(listed), told, listed[0]
        )
    if len(by_file) > SHOWN:
        _log.warning("... and problems of %d more files", len(by_file) - SHOWN)
    return found
