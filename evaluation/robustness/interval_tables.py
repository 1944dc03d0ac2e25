"""Tables of intervals and differences for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluation.comparison.results import shown
from evaluation.robustness.domains import Scores
from evaluation.robustness.grid import METRICS, metric_names
from evaluation.robustness.intervals import Intervals
from evaluation.robustness.tables import Part, title_of
from evaluation.statistics.paired import Difference

_KEYS = {"clean": "clean", "mpc": "mPC", "rpc": "rPC", "mpc_all": "mPC of 19"}
_ENDS = ["2.5 %", "97.5 %"]


def interval_tables(
    found: Intervals, metrics: Mapping[str, Mapping[str, float]], domains: Scores
) -> list[Part]:
    """Return tables of the main metric of each task: of intervals, and of differences.

    Args:
        found: intervals and differences.
        metrics: model -> number by name.
        domains: see `evaluation.robustness.domains.domain_scores`.
    """
    tables: list[Part] = []
    for task in METRICS:
        held = {n for ends in found.intervals.values() for n in ends}
        metric = next((n for n in metric_names(task) if f"{n}_clean" in held), None)
        if metric is None:
            continue
        names = {f"{metric}_{key}": word for key, word in _KEYS.items()}
        of_domain = {metric: "", f"{metric}_ratio": ", / clean"}
        rows: list[list[Any]] = []
        pairs: list[list[Any]] = []
        for model, ends in found.intervals.items():
            for name, word in names.items():
                if name in ends:
                    rows.append([model, word, metrics[model].get(name), *ends[name]])
                    pairs += _pair(model, word, found.difference.get(model, {}).get(name))
            for domain, of_model in found.domains.get(model, {}).items():
                for name, more in of_domain.items():
                    if name in of_model:
                        value = domains[model][domain].get(name)
                        rows.append([model, f"{domain}{more}", value, *of_model[name]])
                        differences = found.domain_difference.get(model, {}).get(domain, {})
                        pairs += _pair(model, f"{domain}{more}", differences.get(name))
        what = "bags" if task == "bag" else "images"
        title = f"{title_of(metric)}: 95 % intervals over draws of {what}"
        tables.append((title, ["model", "number", "value", *_ENDS], rows))
        if pairs:
            title = f"{title_of(metric)}: difference from {found.first} on the same {what}"
            tables.append((title, ["model", "number", "difference", *_ENDS, "p"], pairs))
    return tables


def _pair(model: str, word: str, one: Difference | None) -> list[list[Any]]:
    return [] if one is None else [[model, word, one.value, one.low, one.high, shown(one.p)]]
