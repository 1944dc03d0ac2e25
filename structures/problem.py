"""Records of faults in the user's data, and the policies for handling them.

Every reader of files collects its findings as `Problem` records, so that all faults of a data set
are reported together and `evaluate.py check-data` can write them as a table.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

BadDataPolicy = Literal["error", "skip"]
AnnotationPolicy = Literal["error", "skip", "repair"]  # of images with annotations
SHOWN = 20  # problems that a message lists
MENDABLE = "or use bad_data: repair"  # end of the remedies of problems that it mends
EXAMPLES = 3  # problems of one cause that are told in full; further ones are counted
_BAGS = ("slide", "bag", "patient")  # of which two with the same fault are counted already

# Names, lists, paths and numbers: the parts in which two reasons of the same kind differ
_VALUES = re.compile(r"'[^']*'|\[[^\]]*\]|\([^)]*\)|\S*/\S*|-?\b\d[\d.]*\b|\bnan\b|-?\binf\b")

_log = logging.getLogger(__name__)


class Problem(NamedTuple):
    """A fault in the data: its location, the reason and a remedy.

    Attributes:
        file: the file that has the fault, or that refers to something missing.
        item: id of the image, slide, bag or patient, or None if the whole file is affected.
        annotation: id of the annotation or number of the row, or None.
        reason: description of the fault, with the value found.
        remedy: what the user can do.
        kind: the word for ``item`` in the message.
        part: the word for ``annotation`` in the message.
        repaired: whether the record was repaired and kept; ``remedy`` then says how.
    """

    file: Path
    item: int | str | None
    annotation: int | str | None
    reason: str
    remedy: str
    kind: str = "image"
    part: str = "annotation"
    repaired: bool = False

    def mendable(self) -> Problem:
        """Return the problem with ``bad_data: repair`` as a further remedy."""
        return self._replace(remedy=f"{self.remedy}, {MENDABLE}")

    def mended(self, done: str) -> Problem:
        """Return the problem marked as that of a record that was repaired.

        Args:
            done: description of the changes.
        """
        return self._replace(remedy=f"repaired: {done}", repaired=True)

    def __str__(self) -> str:
        return f"{', '.join([str(self.file), *self.place()])}: {self.reason}; {self.remedy}"

    def place(self) -> list[str]:
        """Return the item and the part of the file that have the fault, in words."""
        item = [] if self.item is None else [f"{self.kind} {self.item}"]
        return item if self.annotation is None else [*item, f"{self.part} {self.annotation}"]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values for JSON; ``repaired`` only where it is true."""
        fields = self._asdict() | {"file": str(self.file)}
        if not self.repaired:
            del fields["repaired"]
        return fields


class DataProblems(ValueError):  # noqa: N818  one exception for several problems
    """Error that the data have faults; the message lists up to 20, ``problems`` holds all.

    More than three problems of the same cause are one line with their number and three examples;
    of slides, bags and patients two are enough.

    Args:
        problems: at least one; those of repaired records are left out.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problem for problem in problems if not problem.repaired)
        shown = by_cause(self.problems)
        if len(shown) > SHOWN:  # those of a whole file must not hide behind those of its records
            shown.sort(key=lambda group: (group[0].item, group[0].annotation) != (None, None))
        lines = [_line(group) for group in shown[:SHOWN]]
        more = sum(map(len, shown[SHOWN:]))
        if more > 0:
            lines.append(
                f"... and {more} more; `python evaluate.py check-data --config RECIPE.yaml` lists "
                "them all"
            )
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[type[DataProblems], tuple[tuple[Problem, ...]]]:
        """Pickle the problems, not the message, so that another process can rebuild the error."""
        return type(self), (self.problems,)


def by_cause(problems: Iterable[Problem]) -> list[list[Problem]]:
    """Group the problems of one cause where there are more than three of it.

    Problems have the same cause if their reasons and their remedies differ in names and numbers
    alone. Two slides, bags or patients with the same fault are a group if they are in one file, or
    in files of one folder that are named after them.
    """
    listed, groups = list(problems), dict[tuple[Any, ...], list[Problem]]()
    for problem in listed:
        groups.setdefault(_cause(problem), []).append(problem)
    found: list[list[Problem]] = []
    for problem in listed:
        group = groups[_cause(problem)]
        if len(group) <= EXAMPLES and problem.kind not in _BAGS:
            found.append([problem])
        elif group[0] is problem:
            found.append(group)
    return found


def _cause(problem: Problem) -> tuple[Any, ...]:
    texts = (_VALUES.sub("...", text) for text in (problem.reason, problem.remedy))
    place = None
    if problem.kind in _BAGS:
        own = problem.item is not None and str(problem.item) in problem.file.name
        place = problem.file.parent if own else problem.file
    return place, problem.kind, problem.part, problem.repaired, *texts


def common_place(group: Sequence[Problem]) -> Path:
    """Return the file of some problems, or the folder that their files share."""
    files = {problem.file for problem in group}
    return files.pop() if len(files) == 1 else Path(os.path.commonpath([f.parent for f in files]))


def _line(group: Sequence[Problem]) -> str:
    """Return the line of a message for the problems of one cause."""
    first = group[0]
    if len(group) == 1:
        return str(first)
    files = dict.fromkeys(problem.file for problem in group)
    alike = len({problem.reason for problem in group}) == 1
    examples = "; ".join(
        ", ".join([*([p.file.name] if len(files) > 1 else []), *p.place()])
        + ("" if alike else f" ({p.reason})")
        for p in group[:EXAMPLES]
    )
    reason = first.reason if alike else _VALUES.sub("...", first.reason)
    return f"{common_place(group)}: {len(group)} x {reason}, for example {examples}; {first.remedy}"


def count_kinds(problems: Iterable[Problem]) -> str:
    """Return how many problems there are of each kind of reason, the most frequent first."""
    kinds = Counter(_VALUES.sub("...", problem.reason) for problem in problems)
    return "; ".join(f"{count} x {kind}" for kind, count in kinds.most_common(SHOWN))


def settle(problems: Iterable[Problem], policy: AnnotationPolicy) -> tuple[Problem, ...]:
    """Raise an error for problems, or log their counts by file and kind of reason and continue.

    Args:
        problems: the problems found in a data set, possibly none.
        policy: ``error`` to raise; ``skip`` or ``repair`` if the caller leaves out the affected
            items, except for those that are marked as repaired.

    Returns:
        The problems; the caller has to leave out the affected items.

    Raises:
        DataProblems: there is a problem and the policy is ``error``.
    """
    found = tuple(problems)
    if found and policy == "error":
        raise DataProblems(found)
    by_file: dict[tuple[Path, bool], list[Problem]] = {}
    for group in by_cause(found):
        joint = common_place(group) if group[0].kind in _BAGS else None
        for problem in group:
            by_file.setdefault((joint or problem.file, problem.repaired), []).append(problem)
    for (file, repaired), listed in list(by_file.items())[:SHOWN]:
        _log.warning(
            "%s: %d problem(s) %s (%s), the first: %s",
            file,
            len(listed),
            "repaired" if repaired else "skipped",
            count_kinds(listed),
            "; ".join(str(problem) for problem in listed[: EXAMPLES if repaired else 1]),
        )
    if len(by_file) > SHOWN:
        _log.warning("... and problems of %d more files", len(by_file) - SHOWN)
    return found
