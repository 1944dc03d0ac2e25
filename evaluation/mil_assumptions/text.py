"""Results of the algorithmic unit tests as tables, sentences and JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from evaluation.mil_assumptions.bags import TestNumber
from evaluation.mil_assumptions.structure import StructureReport
from evaluation.mil_assumptions.suite import AssumptionReport, Verdict
from evaluation.mil_assumptions.training import AssumptionSettings

TESTS: tuple[TestNumber, ...] = (1, 2, 3)
COLUMNS = ["test", "train AUC", "test AUC", "votes", "verdict", "seconds"]
_STRUCTURE = ["property", "status", "tried", "broken", "worst change", "note"]
_EXAMPLE = ["instance", "mean", "std", "lowest", "highest"]
_TITLES = {1: "1 one concept", 2: "2 two concepts", 3: "3 presence"}
_SHORTCUTS = {1: "the absence of poison", 2: "the presence of poison", 3: "the number of hits"}


def settings_of(tests: Sequence[int], seeds: int, bags: int, epochs: int) -> AssumptionSettings:
    """Return the settings of a command line, with half as many test bags as training bags.

    Raises:
        ValueError: there would be fewer than two test bags of each class.
    """
    if bags < 8:
        raise ValueError(f"--bags {bags}: must be at least 8, for two test bags of each class")
    chosen = tuple(test for test in TESTS if test in tests)
    return AssumptionSettings(
        tests=chosen, seeds=seeds, train_bags=bags, test_bags=bags // 2, epochs=epochs
    )


def tables(report: AssumptionReport) -> list[tuple[str, list[str], list[tuple[Any, ...]]]]:
    """Return (title, columns, rows) of all tables."""
    title = f"{report.model} through the adapter {report.adapter}"
    if report.choice:
        title += f" ({report.choice})"
    s = report.settings
    title += f": {s.train_bags} training and {s.test_bags} test bags, {s.epochs} epochs"
    found = [(title, COLUMNS, trained_rows(report))]
    found.append(("structure with random weights", _STRUCTURE, structure_rows(report.structure)))
    found += [(title, _EXAMPLE, rows) for title, rows in example_tables(report)]
    return found


def trained_rows(report: AssumptionReport) -> list[tuple[Any, ...]]:
    """Return one row per test with `COLUMNS`; areas are means over the seeds."""
    rows: list[tuple[Any, ...]] = []
    for test in TESTS:
        results = report.of_test(test)
        if not results:
            rows.append((_TITLES[test], None, None, "-", "n/a", None))
            continue
        auc = report.auc(test)
        votes = " ".join(vote[0] for vote in report.votes(test))  # P, L, V, I
        seconds = f"{sum(result.seconds for result in results):.1f}"
        rows.append(
            (_TITLES[test], auc["train"], auc["test"], votes, report.verdict(test), seconds)
        )
    return rows


def structure_rows(structure: StructureReport) -> list[tuple[Any, ...]]:
    """Return (property, status, tried, broken, worst change, note) of each property."""
    return [
        (
            name.replace("_", " "),
            found.status,
            found.tried,
            found.broken,
            "-" if found.status == "n/a" else f"{found.worst:.3g}",
            found.note,
        )
        for name, found in structure.properties().items()
    ]


def sentences(report: AssumptionReport) -> list[str]:
    """Return notes and failed properties of the structure, then `conclusions`."""
    broken = [
        f"{name.replace('_', ' ')} fails: {found.example.describe()}"
        for name, found in report.structure.properties().items()
        if found.example is not None
    ]
    notes = [f"structure: {note}" for note in report.structure.notes]
    return [*notes, *broken, *conclusions(report)]


def conclusions(report: AssumptionReport) -> list[str]:
    """Return the conclusions as sentences."""
    lines = []
    if not report.results:
        lines.append("the module has no parameters to train: the three tests do not apply")
    for test in TESTS:
        line = _on_test(report, test)
        if line:
            lines.append(line)
    lines.append(f"respects standard MIL: {_standard(report)}")
    lines.append(f"respects threshold MIL: {_threshold(report)}")
    return lines


def _on_test(report: AssumptionReport, test: TestNumber) -> str:
    verdict = report.verdict(test)
    meaning = {
        "n/a": "",
        "PASS": "learnt the legal rule",
        "VIOLATION": f"learnt the shortcut, {_SHORTCUTS[test]}: it ranks the test bags wrongly",
        "LEGAL-BUT-LIMITED": (
            "learnt a part of the rule (it cannot express all of it, or needs more --epochs), but "
            "no shortcut, and no added instance was found that lowers the score of a bag"
        ),
        "INCONCLUSIVE": _why_inconclusive(report, test),
    }[verdict]
    line = f"test {test}: {verdict}: {meaning}" if meaning else ""
    if test == 2 and verdict == "PASS":
        third = report.verdict(3)
        line += "; a model that counts hits also passes, so read it together with test 3"
        line += " (n/a here)" if third == "n/a" else f" ({third} here)"
    return line


def _why_inconclusive(report: AssumptionReport, test: TestNumber) -> str:
    votes = report.votes(test)
    if len(set(votes)) > 1:
        return f"seeds disagree ({', '.join(votes)})"
    if any(result.train_auc < 0.9 for result in report.of_test(test)):
        return "does not fit the training bags: it cannot express the rule, or needs more --epochs"
    return "learnt parts of both the rule and the shortcut"


def _standard(report: AssumptionReport) -> str:
    verdict = report.respects_standard
    bad = [t for t in TESTS if "VIOLATION" in report.votes(t)]
    if verdict is False:
        return f"no, at least one seed violates test {', '.join(map(str, bad))}"
    if verdict is None:
        return f"not shown, test 1 is {report.verdict(1)}"
    left = [str(t) for t in TESTS if not report.of_test(t)]
    return "yes" + (f", but without test {', '.join(left)}" if left else "")


def _threshold(report: AssumptionReport) -> str:
    verdict = report.respects_threshold
    if verdict:
        return "yes"
    failing: list[tuple[int, Verdict]] = [(t, report.verdict(t)) for t in TESTS]
    why = ", ".join(f"test {t} is {v}" for t, v in failing if v != "PASS")
    return f"{'not shown' if verdict is None else 'no'}, {why}"


def example_tables(report: AssumptionReport) -> list[tuple[str, list[tuple[str, ...]]]]:
    """Return (sentence, rows of the bag) of every counter-example of the trained models."""
    return [
        (f"test {r.test}, seed {r.seed}: {r.example.describe()}", list(r.example.table()))
        for r in report.results
        if r.example is not None
    ]


def record(report: AssumptionReport) -> dict[str, Any]:
    """Return the report for JSON."""
    by_test = {f"test_{test}": report.of_test(test) for test in TESTS}
    return {
        "model": report.model,
        "adapter": report.adapter,
        "adapter_choice": report.choice,
        "settings": dataclasses.asdict(report.settings),
        "verdicts": {f"test_{test}": report.verdict(test) for test in TESTS},
        "auc": {f"test_{test}": report.auc(test) for test in TESTS},
        "seeds": {
            name: [
                {k: v for k, v in r._asdict().items() if k not in ("test", "example")}
                for r in results
            ]
            for name, results in by_test.items()
        },
        "counter_examples": [
            {"test": r.test, "seed": r.seed, **r.example.record()}
            for r in report.results
            if r.example is not None
        ],
        "structure": report.structure.record(),
        "respects": {
            "standard": report.respects_standard,
            "threshold": report.respects_threshold,
        },
        "conclusions": conclusions(report),
        "seconds": report.seconds,
    }
