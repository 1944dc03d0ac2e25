"""Records of faults in the user's data, and the policies for handling them.

Every reader of files collects its findings as `Problem` records, so that all faults of a data set
are reported together and `evaluate.py check-data` can write them as a table.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

BadDataPolicy = Literal["error", "skip"]
AnnotationPolicy = Literal["error", "skip", "repair"]  # of images with annotations
SHOWN = 20  # problems that a message lists
MENDABLE = "or use bad_data: repair"  # end of the remedies of problems that it mends
_EXAMPLES = 3  # repaired records that a message lists
_BAGS = ("slide", "bag", "patient")  # kinds of items whose equal faults are one message
_NAMED = 5  # items that such a message names

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
        where = [str(self.file)]
        if self.item is not None:
            where.append(f"{self.kind} {self.item}")
        if self.annotation is not None:
            where.append(f"{self.part} {self.annotation}")
        return f"{', '.join(where)}: {self.reason}; {self.remedy}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values for JSON; ``repaired`` only where it is true."""
        fields = self._asdict() | {"file": str(self.file)}
        if not self.repaired:
            del fields["repaired"]
        return fields


class DataProblems(ValueError):  # noqa: N818  one exception for several problems
    """Error that the data have faults; the message lists up to 20, ``problems`` holds all.

    The same fault of several slides, bags or patients is one entry of the message.

    Args:
        problems: at least one; those of repaired records are left out.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problem for problem in problems if not problem.repaired)
        shown = [joined(alike) for alike in alike_problems(self.problems)]
        more = len(shown) - SHOWN
        if more > 0:  # a problem of a whole file must not hide behind those of its records
            shown.sort(key=lambda p: (p.item, p.annotation) != (None, None))
        lines = [str(problem) for problem in shown[:SHOWN]]
        if more > 0:
            lines.append(
                f"... and {more} more; `python evaluate.py check-data --config RECIPE.yaml` lists "
                "them all"
            )
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[type[DataProblems], tuple[tuple[Problem, ...]]]:
        """Pickle the problems, not the message, so that another process can rebuild the error."""
        return type(self), (self.problems,)


def alike_problems(problems: Iterable[Problem]) -> list[list[Problem]]:
    """Return the problems in groups: those of slides, bags or patients with the same fault.

    Two faults are the same if they are in one file, or in files of one folder that are named after
    their items, and if their reasons and remedies differ only in the values that they name. Any
    other problem, as of an image, is a group of its own.
    """
    groups: dict[object, list[Problem]] = {}
    for number, problem in enumerate(problems):
        key: object = number
        if problem.kind in _BAGS and problem.item is not None:
            texts = [_VALUES.sub("...", text) for text in (problem.reason, problem.remedy)]
            own = str(problem.item) in problem.file.name  # a file of each slide
            place = problem.file.parent if own else problem.file
            key = (place, problem.kind, problem.part, problem.repaired, *texts)
        groups.setdefault(key, []).append(problem)
    return list(groups.values())


def joined(alike: Sequence[Problem]) -> Problem:
    """Return one problem for a group of `alike_problems`.

    >>> two = [Problem(Path(f"{k}.h5"), k, None, "is odd", "leave it out", "slide") for k in "ab"]
    >>> str(joined(two))
    '., slides a, b: is odd; leave it out'
    """
    first = alike[0]
    if len(alike) == 1:
        return first
    items = list(dict.fromkeys(problem.item for problem in alike))
    part, place, reason = first.part, first.annotation, first.reason
    if part == "line" and place is not None:
        part, place = "lines", _names([problem.annotation for problem in alike])
    elif len({problem.annotation for problem in alike}) > 1:
        place, reason = None, f"{part} {place}: {reason}"
    if reason != first.reason or len({problem.reason for problem in alike}) > 1:
        reason = f"the first: {reason}"
    return first._replace(
        file=first.file if len({p.file for p in alike}) == 1 else first.file.parent,
        item=_names(items),
        kind=first.kind + "s" * (len(items) > 1),
        part=part,
        annotation=place,
        reason=reason,
    )


def _names(values: Sequence[object]) -> str:
    more = f" and {len(values) - _NAMED} more" if len(values) > _NAMED else ""
    return ", ".join(map(str, values[:_NAMED])) + more


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
    by_file: dict[tuple[Path, bool], list[list[Problem]]] = {}
    for alike in alike_problems(found):
        by_file.setdefault((joined(alike).file, alike[0].repaired), []).append(alike)
    for (file, repaired), groups in list(by_file.items())[:SHOWN]:
        listed = [problem for alike in groups for problem in alike]
        examples = [joined(alike) for alike in groups[: _EXAMPLES if repaired else 1]]
        _log.warning(
            "%s: %d problem(s) %s (%s), the first: %s",
            file,
            len(listed),
            "repaired" if repaired else "skipped",
            count_kinds(listed),
            "; ".join(map(str, examples)),
        )
    if len(by_file) > SHOWN:
        _log.warning("... and problems of %d more files", len(by_file) - SHOWN)
    return found
