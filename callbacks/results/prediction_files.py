"""Tables of bag predictions: one row a bag, one row an instance."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from callbacks.mil.bag_outputs import BagAttention
from evaluation.mil.collector import BagScores
from formats.files import written_whole

Row = Sequence[Any]


def write_bags(path: Path, scores: BagScores) -> None:
    """Write ``bag_id,label,score[,patient_id]``, numbers in full precision.

    A binary task has one score, the positive probability; otherwise there is a column ``score_c``
    for each class c. A multilabel task also has a column ``label_c`` for each class. An unknown
    label (negative) is left empty. The patient is there where the bags have one.
    """
    labels = scores.labels.reshape(len(scores.bag_ids), -1)
    columns = scores.probabilities.reshape(len(scores.bag_ids), -1)
    header = [
        "bag_id",
        *_numbered("label", labels.shape[1], scores.labels.ndim > 1),
        *_numbered("score", columns.shape[1], scores.probabilities.ndim > 1),
        *["patient_id"] * bool(scores.groups),
    ]
    patients = [[group] for group in scores.groups] or [[]] * len(scores.bag_ids)
    rows = (
        [bag, *("" if value < 0 else value for value in label), *map(repr, row), *patient]
        for bag, label, row, patient in zip(
            scores.bag_ids, labels.tolist(), columns.tolist(), patients, strict=True
        )
    )
    _write_csv(path, header, rows)


def write_attention(path: Path, bags: Sequence[BagAttention]) -> None:
    """Write ``bag_id,instance,attention[,witness][,x,y]``.

    Instances are numbered from 0 in the order of the bag. Attention with several branches has
    columns ``attention_0``, ``attention_1``, ... Optional columns are there when at least one bag
    has them.
    """
    branches = bags[0].weights.shape[1]
    with_witness = any(bag.witness is not None for bag in bags)
    with_coords = any(bag.coords is not None for bag in bags)
    header = ["bag_id", "instance", *_numbered("attention", branches, branches > 1)]
    header += ["witness"] * with_witness + ["x", "y"] * with_coords
    rows = (row for bag in bags for row in _instance_rows(bag, with_witness, with_coords))
    _write_csv(path, header, rows)


def _instance_rows(bag: BagAttention, with_witness: bool, with_coords: bool) -> Iterable[Row]:
    count = len(bag.weights)
    witness = [""] * count if bag.witness is None else bag.witness.tolist()
    places = [["", ""]] * count if bag.coords is None else bag.coords.tolist()
    for k, weights in enumerate(bag.weights.tolist()):
        row = [bag.bag_id, k, *map(repr, weights)]
        if with_witness:
            row.append("" if witness[k] == -1 else witness[k])
        if with_coords:
            row.extend(places[k])
        yield row


def _numbered(name: str, count: int, several: bool) -> list[str]:
    return [f"{name}_{k}" for k in range(count)] if several else [name]


def _write_csv(path: Path, header: Row, rows: Iterable[Row]) -> None:
    with (
        written_whole(path) as file,
        io.TextIOWrapper(file, encoding="utf-8", newline="") as text,
    ):
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
