"""Bags of the page: the instances that models attend to most, and the bags they get wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluation.mil.metrics import BagTable, predicted_classes
from evaluation.mil.scores import instance_auroc
from evaluation.report.page.bag_errors import BagErrors, bag_errors
from evaluation.report.page.content import AttendedBag, AttendedInstance, Cell, Link, Table
from evaluation.report.page.images import encode_image
from evaluation.report.page.mil_scores import MilScores
from evaluation.targets.bags import TargetPredictions

INSTANCES = 8  # shown of each bag
ROWS = 12  # of a list of mistakes, shared by the runs

Pixels = npt.NDArray[np.uint8]
Images = Callable[[str], Pixels | None]


@dataclass(frozen=True)
class BagAttentionRows:
    """Attention of a bag.

    Attributes:
        weights: (n,) mean over the branches.
        witness: (n,) labels of the instances, -1 where unknown.
        places: (n, 2) level-0 pixels, NaN where unknown.
    """

    weights: npt.NDArray[np.float64]
    witness: npt.NDArray[np.int64]
    places: npt.NDArray[np.float64]


def witness_auroc(attention: Mapping[str, BagAttentionRows]) -> float | None:
    """Return the mean AUROC of the attention for witnesses, None where none is known."""
    found = [
        instance_auroc(one.weights, one.witness)
        for one in attention.values()
        if (one.witness >= 0).all()
    ]
    known = [value for value in found if np.isfinite(value)]
    return float(np.mean(known)) if known else None


@dataclass(frozen=True)
class Answers:
    """What a run says of each bag.

    Attributes:
        bags: ids.
        truth: as text.
        says: as text.
        wrong: (B,) whether a decision is wrong; False where there is no decision.
        sizes: (B,) probability of a wrong decision, or error of a time or value; 0 or NaN of bags
            that are in no list.
        errors: of times and values.
    """

    bags: tuple[str, ...]
    truth: tuple[str, ...]
    says: tuple[str, ...]
    wrong: npt.NDArray[np.bool_]
    sizes: npt.NDArray[np.float64]
    errors: BagErrors | None = None


def answers(run: MilScores) -> Answers:
    """Return what a run says of its bags."""
    if run.found.target is not None:
        return _target_answers(run.found.target)
    bags, task = run.found.scores, run.found.task
    chance = bags.probabilities.reshape(len(bags.bag_ids), -1)
    table = BagTable(bags.labels, bags.probabilities, task)
    decided = np.asarray(predicted_classes(table, run.threshold))
    if task == "multilabel":
        truth = [_labels(row, run.classes) for row in bags.labels]
        says = [_labels(row, run.classes) for row in decided]
        wrong = (decided != bags.labels).any(axis=1)
        sure = np.where(decided != bags.labels, np.abs(chance - 0.5) + 0.5, 0.0).max(axis=1)
    else:
        whole = np.stack([1 - chance[:, 0], chance[:, 0]], axis=1) if task == "binary" else chance
        sure = whole[np.arange(len(whole)), decided]
        truth = [run.classes[label] if label >= 0 else "unknown" for label in bags.labels]
        says = [f"{run.classes[c]} ({p:.2f})" for c, p in zip(decided, sure, strict=True)]
        wrong = (decided != bags.labels) & (bags.labels >= 0)
    return _decided(bags.bag_ids, truth, says, wrong, sure)


def _decided(
    bags: tuple[str, ...], truth: Sequence[str], says: Sequence[str], wrong: Any, sure: Any
) -> Answers:
    return Answers(bags, tuple(truth), tuple(says), np.asarray(wrong), np.where(wrong, sure, 0.0))


def _labels(row: Any, classes: Sequence[str]) -> str:
    held = [name for name, present in zip(classes, row.tolist(), strict=True) if present == 1]
    return ", ".join(held) or "none"


def _target_answers(bags: TargetPredictions) -> Answers:
    if bags.task == "ordinal":
        names = bags.names or tuple(map(str, range(bags.predictions.shape[1])))
        decided = bags.predictions.argmax(axis=1)
        sure = bags.predictions.max(axis=1)
        wrong = (decided != bags.labels) & (bags.labels >= 0)
        truth = [names[label] if label >= 0 else "unknown" for label in bags.labels]
        says = [f"{names[c]} ({p:.2f})" for c, p in zip(decided, sure, strict=True)]
        return _decided(bags.bag_ids, truth, says, wrong, sure)
    if bags.task == "regression":
        truth = [", ".join(f"{v:.4g}" for v in row) for row in bags.labels]
        says = [", ".join(f"{v:.4g}" for v in row) for row in bags.predictions]
    else:
        truth = [f"{'event' if e == 1 else 'censored'} at {t:.4g}" for t, e in bags.labels]
        says = [f"risk {v:.3g}" for v in bags.predictions]
    errors, right = bag_errors(bags), np.zeros(len(bags.bag_ids), dtype=bool)
    return Answers(bags.bag_ids, tuple(truth), tuple(says), right, errors.sizes, errors)


def bag_key(position: int) -> str:
    """Return the key of a bag on the page."""
    return f"b{position}"


def bag_mistakes(
    runs: Sequence[MilScores], said: Sequence[Answers], shown: Mapping[str, str]
) -> tuple[Table, ...]:
    """Return the most confident wrong bags, and those that one run gets right and another wrong.

    Of times and values, it is the bags with the largest errors.

    Args:
        runs: the runs.
        said: what each says.
        shown: key by bag of the bags that the page shows.
    """
    tables = []
    several = len(runs) > 1
    share = max(1, ROWS // len(runs))
    rows: list[tuple[Cell, ...]] = []
    for run, one in zip(runs, said, strict=True):
        for n in worst_first(one)[:share]:
            name = (run.name,) if several else ()
            told = () if one.errors is None else (one.errors.told[n],)
            rows.append((_link(one, n, shown), *name, one.truth[n], one.says[n], *told))
    if rows:
        columns = ("bag", *(("run",) if several else ()), "truth", "prediction")
        errors = said[0].errors
        if errors is None:
            tables.append(Table("Most confident wrong bags", columns, tuple(rows)))
        else:
            tables.append(Table(errors.title, (*columns, errors.column), tuple(rows), errors.note))
    for a, b in _pairs(len(runs)):
        title = f"Right by {runs[a].name}, wrong by {runs[b].name}"
        tables += _between(title, said[a], said[b], shown)
    return tuple(tables)


def mistaken_bags(said: Sequence[Answers]) -> list[str]:
    """Return the bags of all rows of `bag_mistakes`."""
    share = max(1, ROWS // len(said))
    found = [one.bags[n] for one in said for n in worst_first(one)[:share]]
    for a, b in _pairs(len(said)):
        found += [said[b].bags[n] for n in _right_and_wrong(said[a], said[b])[: ROWS // 2]]
    return list(dict.fromkeys(found))


def _pairs(runs: int) -> list[tuple[int, int]]:
    """Return the reference and each other run, in both orders."""
    return [pair for other in range(1, runs) for pair in ((0, other), (other, 0))]


def worst_first(said: Answers) -> list[int]:
    """Return the positions of the wrong bags, the most confident or the largest error first."""
    held = np.flatnonzero(said.sizes > 0)
    return [int(n) for n in held[np.argsort(-said.sizes[held], kind="stable")]]


def _link(said: Answers, n: int, shown: Mapping[str, str]) -> Cell:
    bag = said.bags[n]
    return Link(bag, shown[bag]) if bag in shown else bag


def _between(title: str, right: Answers, wrong: Answers, shown: Mapping[str, str]) -> list[Table]:
    place = {bag: n for n, bag in enumerate(right.bags)}
    found = _right_and_wrong(right, wrong)
    if not found:
        return []
    rows = [
        (_link(wrong, n, shown), wrong.truth[n], right.says[place[wrong.bags[n]]], wrong.says[n])
        for n in found[: ROWS // 2]
    ]
    columns = ("bag", "truth", "right prediction", "wrong prediction")
    note = f"{len(found)} bags, the most confident first."
    return [Table(title, columns, tuple(rows), note)]


def _right_and_wrong(right: Answers, wrong: Answers) -> list[int]:
    """Return the positions of bags that one run decides rightly and the other wrongly."""
    place = {bag: n for n, bag in enumerate(right.bags)}
    return [
        n
        for n in worst_first(wrong)
        if wrong.wrong[n] and (bag := wrong.bags[n]) in place and not right.wrong[place[bag]]
    ]


def choose_bags(said: Sequence[Answers], count: int, seed: int = 0) -> list[str]:
    """Return the bags that are shown: half the most confident wrong ones, others at random (A832).

    Args:
        said: what each run says; the wrong bags are shared by the runs.
        count: how many to show.
        seed: of the random ones.
    """
    share = -(-(count // 2) // len(said))
    wrong = [one.bags[n] for one in said for n in worst_first(one)[:share]]
    chosen = list(dict.fromkeys(wrong))[: count - count // 2]
    others = [bag for bag in said[0].bags if bag not in set(chosen)]
    drawn = np.random.default_rng(seed).permutation(len(others))[: count - len(chosen)]
    return chosen + [others[int(k)] for k in sorted(drawn.tolist())]


def attended_bags(
    said: Sequence[Answers],
    attention: Sequence[Mapping[str, BagAttentionRows]],
    images: Images,
    chosen: Sequence[str],
) -> tuple[AttendedBag, ...]:
    """Return bags with the instances that each run attends to most.

    Args:
        said: what each run says.
        attention: of each run, by bag; empty for a model without attention.
        images: returns the instances of a bag as images, or None.
        chosen: ids of the bags.
    """
    places = [{bag: n for n, bag in enumerate(one.bags)} for one in said]
    found = []
    for bag in chosen:
        if not any(bag in one for one in attention) or not all(bag in p for p in places):
            continue
        own = [p[bag] for p in places]
        pixels = images(bag)
        rows = [one.get(bag) for one in attention]
        found.append(
            AttendedBag(
                key=bag_key(own[0]),
                name=bag,
                truth=said[0].truth[own[0]],
                predictions=tuple(one.says[n] for one, n in zip(said, own, strict=True)),
                count=max(len(r.weights) for r in rows if r is not None),
                instances=tuple(_instances(r, pixels) for r in rows),
                wrong=tuple(bool(one.wrong[n]) for one, n in zip(said, own, strict=True)),
            )
        )
    return tuple(found)


def _instances(
    rows: BagAttentionRows | None, pixels: Pixels | None
) -> tuple[AttendedInstance, ...]:
    if rows is None:
        return ()
    known = pixels is not None and len(pixels) == len(rows.weights)
    order = np.argsort(-rows.weights, kind="stable")[:INSTANCES].tolist()
    found = []
    for n in order:
        file, mime = encode_image(pixels[n], 96) if known and pixels is not None else (None, "")
        x, y = rows.places[n].tolist()
        found.append(
            AttendedInstance(
                index=n,
                attention=float(rows.weights[n]),
                place=(x, y) if np.isfinite([x, y]).all() else None,
                file=file,
                mime=mime,
                positive=bool(rows.witness[n] == 1) if rows.witness[n] >= 0 else None,
            )
        )
    return tuple(found)
