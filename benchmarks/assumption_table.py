"""The table of the algorithmic unit tests in docs/METHODS.md, between its two markers."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evaluation.mil_assumptions.suite import AssumptionReport, SeedResult

BEGIN = "<!-- table of benchmarks/mil_assumptions.py -->"
END = "<!-- end of the table -->"
TESTS = (1, 2, 3)
PROPERTIES = {
    "permutation": "order",
    "padding": "batch",
    "monotonicity": "monotone",
    "duplication": "copies",
    "gradient_sign": "sign",
}
STATUS = {"holds": "yes", "fails": "no", "n/a": "-"}
LETTERS = {"PASS": "P", "LEGAL-BUT-LIMITED": "L", "VIOLATION": "V", "INCONCLUSIVE": "I"}


def short(value: float) -> str:
    """Return an area with two digits and no leading zero.

    >>> short(0.456), short(1.0)
    ('.46', '1.00')
    """
    return f"{value:.2f}".removeprefix("0")


def spread(values: Sequence[float]) -> str:
    """Return the mean of the seeds, with their range where it shows.

    >>> spread([0.25, 0.75]), spread([1.0, 0.999])
    ('.50 (.25 to .75)', '1.00')
    """
    low, high = short(min(values)), short(max(values))
    mean = short(sum(values) / len(values))
    return mean if low == high else f"{mean} ({low} to {high})"


def cell(report: AssumptionReport, test: Any) -> str:
    """Return one test of one learner: training and test AUC, verdict, votes where they differ.

    Where seeds are missing their number stands in place of the verdict, which needs all of them.
    """
    found = report.of_test(test)
    if not found:
        return "-"
    train, tested = [r.train_auc for r in found], [r.test_auc for r in found]
    votes = [LETTERS[vote] for vote in report.votes(test)]
    said = " ".join(votes)
    areas = f"{spread(train)} / {spread(tested)}"
    if not complete(report, test):
        return f"{areas} ({said}, {len(found)} of {report.settings.seeds} seeds)"
    return f"{areas} {report.verdict(test)}{f' ({said})' if len(set(votes)) > 1 else ''}"


def complete(report: AssumptionReport, test: Any) -> bool:
    """Return whether a test has been run with every seed."""
    return len(report.of_test(test)) == report.settings.seeds


def answer(value: bool | None) -> str:
    """Return a conclusion in a word."""
    return "open" if value is None else "yes" if value else "no"


def line(name: str, report: AssumptionReport, structure: Mapping[str, Any]) -> str:
    """Return the row of a learner."""
    cells = [name, *(cell(report, test) for test in TESTS)]
    form = [STATUS[structure[p]["status"]] for p in PROPERTIES]
    ends = [report.respects_standard, report.respects_threshold]
    if not all(complete(report, test) for test in TESTS):  # what failed stays so, the rest is open
        ends = [False if end is False else None for end in ends]
    return "| " + " | ".join([*cells, *form, *map(answer, ends)]) + " |"


def table(rows: Mapping[str, tuple[AssumptionReport, Mapping[str, Any]]]) -> str:
    """Return the table of models with their reports and the records of their structure."""
    heads = ["learner", *(f"test {test}: train / test AUC" for test in TESTS)]
    heads += [*PROPERTIES.values(), "standard MIL", "threshold MIL"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *(line(name, *found) for name, found in rows.items())])


def written(document: str, content: str) -> str:
    """Return a document with what stands between the markers replaced.

    Raises:
        ValueError: it has no markers.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document needs the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{content}\n{END}{after}"


def summary(results: Sequence[SeedResult], first: AssumptionReport) -> str:
    """Return what was trained, for the line below the table."""
    settings = first.settings
    seeds = sorted({result.seed for result in results})
    bags = f"{settings.train_bags} training and {settings.test_bags} test bags of {settings.size}"
    median = sorted(result.seconds for result in results)[len(results) // 2]
    total = sum(result.seconds for result in results) / 60
    return (
        f"{len(results)} trainings on {bags} instances, {settings.epochs} epochs, seeds "
        f"{', '.join(map(str, seeds))}; {total:.0f} minutes in all, {median:.1f} s the median one, "
        "search for counter-examples included."
    )
