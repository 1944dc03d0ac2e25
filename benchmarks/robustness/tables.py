"""Tables of the study of robustness for `docs/REPRODUCTION.md`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.robustness.images import DOMAINS, LARGER
from benchmarks.robustness.plan import BAGS, DIGITS, METHODS, NUCLEI, TILES
from benchmarks.robustness.summary import (
    Interval,
    Number,
    Scored,
    numbers,
    over_seeds,
    scored_runs,
    split_by_progress,
)
from datamodules.transforms.bag_shifts import SHIFTS
from datamodules.transforms.patch_shifts import PATCH_SHIFTS
from evaluation.robustness.names import GROUPS

TITLES = {
    DIGITS: "Digit scenes, mask AP",
    BAGS: "Digit bags, AUROC",
    TILES: "Tiles of a slide, AUROC",
    NUCLEI: "Nuclei, mask AP",
}


class Asked(NamedTuple):
    """What is compared on a data set.

    Attributes:
        groups: of corruptions, whose means have columns.
        domains: other data sets.
        pairs: methods; the first minus the second is shown.
        alone: single corruptions that have a column as well.
    """

    groups: Mapping[str, Sequence[str]]
    domains: Sequence[str] = ()
    pairs: Sequence[tuple[str, str]] = ()
    alone: Sequence[str] = ()


ASKED = {
    DIGITS: Asked(
        GROUPS,
        DOMAINS,
        [
            ("mask_rcnn_gn", "mask_rcnn_bn"),
            ("mask_rcnn_frozen", "mask_rcnn_bn"),
            ("mask_rcnn_gn", "mask_rcnn_frozen"),
            ("yolo", "mask_rcnn_bn"),
            ("yolo", "mask_rcnn_gn"),
        ],
    ),
    BAGS: Asked(
        {name: [name] for name in SHIFTS},
        pairs=[(name, "abmil") for name in METHODS[BAGS] if name != "abmil"],
    ),
    TILES: Asked({name: [name] for name in PATCH_SHIFTS}),
    NUCLEI: Asked(
        GROUPS,
        [LARGER],
        [
            ("packaged_bn", "packaged_frozen"),
            ("scratch_gn", "scratch_bn"),
            ("scratch_bn", "packaged_bn"),
            ("scratch_gn", "packaged_frozen"),
            ("yolo", "scratch_bn"),
        ],
        ["jpeg_compression"],
    ),
}


def tables(root: Path) -> str:
    """Return the tables of what is scored, as Markdown."""
    return "\n\n".join(part for data in ASKED for part in _of_data(root, data))


def _of_data(root: Path, data: str) -> list[str]:
    asked, runs = ASKED[data], scored_runs(root, data)
    corruptions = [name for names in asked.groups.values() for name in names]
    shown, others, levels = split_by_progress(runs, corruptions, asked.domains)
    title = f"**{TITLES[data]}.**"
    rest = _rest(others)
    if not shown:
        return [f"{title} No model is scored yet.{rest}"]
    groups = {**asked.groups, **{name: [name] for name in asked.alone}}
    found: dict[str, dict[int, dict[str, Number]]] = {}
    for one in shown:
        mine = numbers(one.cells, groups, levels, asked.domains)
        found.setdefault(one.run.method, {})[one.run.seed] = mine
    told = "" if len(levels) == 5 else f" Means are over the severities {_listed(levels)}."
    parts = [f"{title}{told}{rest}", _scores(shown, found, data)]
    return [*parts, *_differences(found, data)]


def _listed(values: Sequence[object]) -> str:
    *first, last = map(str, values)
    return f"{', '.join(first)} and {last}" if first else last


def _rest(others: Sequence[Scored]) -> str:
    """Return what is said about runs whose cells are not all there."""
    if not others:
        return ""
    names = [f"{METHODS[o.run.data][o.run.method].title} (seed {o.run.seed})" for o in others]
    return f" Not complete, so not counted: {_listed(names)}."


def _scores(
    shown: Sequence[Scored], found: Mapping[str, Mapping[int, Mapping[str, Number]]], data: str
) -> str:
    columns = [n for n in next(iter(next(iter(found.values())).values())) if "/" not in n]
    head = ["method", "seeds", "s", "scored, s", *map(_head, columns)]
    lines = [head, ["---"] * len(head)]
    for method, of_seeds in found.items():
        own = [one for one in shown if one.run.method == method]
        cells = [METHODS[data][method].title, str(len(own))]
        cells += [f"{np.mean([one.seconds for one in own]):.0f}"]
        cells += [f"{np.mean([one.scoring for one in own]):.0f}"]
        for name in columns:
            mean = over_seeds([one[name] for one in of_seeds.values()])
            cells.append(_said(mean) if name in ("clean", "mpc", "rpc") else f"{mean.value:.3f}")
        lines.append(cells)
    return _markdown(lines)


def _differences(found: Mapping[str, Mapping[int, Mapping[str, Number]]], data: str) -> list[str]:
    asked = ASKED[data]
    # Scores of other data are compared as the share of the clean score that is left
    columns = ["clean", "mpc", "rpc", *(f"{name} / clean" for name in asked.domains), *asked.alone]
    if not asked.domains:
        columns += list(asked.groups)
    head = ["first minus second", "seeds", *map(_head, columns)]
    lines = [head, ["---"] * len(head)]
    for first, second in asked.pairs:
        both = [seed for seed in found.get(first, {}) if seed in found.get(second, {})]
        if not both:
            continue
        cells = [" - ".join(METHODS[data][name].title for name in (first, second)), str(len(both))]
        for column in columns:
            one, two = ([found[n][seed][column] for seed in both] for n in (first, second))
            cells.append(_said(over_seeds(one, two), signed=True))
        lines.append(cells)
    return [_markdown(lines)] if len(lines) > 2 else []


def _head(name: str) -> str:
    return {"mpc": "mPC", "rpc": "rPC"}.get(name, name.replace("_", " "))


def _said(one: Interval, signed: bool = False) -> str:
    if not signed:
        return f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]"
    text = f"{one.value:+.3f} [{one.low:+.3f}, {one.high:+.3f}]"
    return text if one.seeds == 1 else f"{text}, {one.above}/{one.seeds}"


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
