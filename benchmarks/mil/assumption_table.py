"""Table of the algorithmic unit tests in docs/METHODS.md, between two markers."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from evaluation.mil_assumptions.suite import AssumptionReport, SeedResult

BEGIN = "<!-- table of benchmarks/mil/assumptions.py -->"
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
    """Format an AUC with two digits and no leading zero.

    >>> short(0.456), short(1.0)
    ('.46', '1.00')
    """
    return f"{value:.2f}".removeprefix("0")


def spread(values: Sequence[float]) -> str:
    """Format the mean over seeds, with the range if it differs after rounding.

    >>> spread([0.25, 0.75]), spread([1.0, 0.999])
    ('.50 (.25 to .75)', '1.00')
    """
    low, high = short(min(values)), short(max(values))
    mean = short(sum(values) / len(values))
    return mean if low == high else f"{mean} ({low} to {high})"


def cell(report: AssumptionReport, test: Any) -> str:
    """Return the cell of a test: training and test AUC, verdict, and the votes if they differ.

    If seeds are missing, the cell has their number instead of the verdict, which needs all seeds.
    """
    found = report.of_test(test)
    if not found:
        return "-"
    train, tested = [r.train_auc for r in found], [r.test_auc for r in found]
    votes = [LETTERS[vote] for vote in report.votes(test)]
    joined = " ".join(votes)
    areas = f"{spread(train)} / {spread(tested)}"
    if not complete(report, test):
        return f"{areas} ({joined}, {len(found)} of {report.settings.seeds} seeds)"
    return f"{areas} {report.verdict(test)}{f' ({joined})' if len(set(votes)) > 1 else ''}"


def complete(report: AssumptionReport, test: Any) -> bool:
    """Return whether a test has been run with every seed."""
    return len(report.of_test(test)) == report.settings.seeds


def answer(value: bool | None) -> str:
    """Return a conclusion as one word."""
    return "open" if value is None else "yes" if value else "no"


def line(name: str, report: AssumptionReport, structure: Mapping[str, Any]) -> str:
    """Return the table row of a model."""
    cells = [name, *(cell(report, test) for test in TESTS)]
    form = [STATUS[structure[p]["status"]] for p in PROPERTIES]
    ends = [report.respects_standard, report.respects_threshold]
    if not all(complete(report, test) for test in TESTS):  # only a failure is final before the end
        ends = [False if end is False else None for end in ends]
    return "| " + " | ".join([*cells, *form, *map(answer, ends)]) + " |"


def table(rows: Mapping[str, tuple[AssumptionReport, Mapping[str, Any]]]) -> str:
    """Return the table of models from their reports and structure records."""
    heads = ["model", *(f"test {test}: train / test AUC" for test in TESTS)]
    heads += [*PROPERTIES.values(), "standard MIL", "threshold MIL"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *(line(name, *found) for name, found in rows.items())])


def written(document: str, content: str) -> str:
    """Return a document with the text between the markers replaced.

    Raises:
        ValueError: the document has no markers.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document needs the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{content}\n{END}{after}"


def summary(results: Sequence[SeedResult], first: AssumptionReport) -> str:
    """Return a description of the trainings, for the line below the table."""
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
