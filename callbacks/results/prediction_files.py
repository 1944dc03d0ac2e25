"""CSV file of the attention in bags, one row per instance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from callbacks.mil.bag_outputs import BagAttention
from formats.files import write_csv

Row = Sequence[Any]


def write_attention(path: Path, bags: Sequence[BagAttention]) -> None:
    """Write the columns ``bag_id,instance,attention[,witness][,x,y]``.

    Instances are numbered from 0 in the order of the bag. Attention with several branches has
    columns ``attention_0``, ``attention_1``, ... Optional columns are written if at least one bag
    has them.
    """
    branches = bags[0].weights.shape[1]
    with_witness = any(bag.witness is not None for bag in bags)
    with_coords = any(bag.coords is not None for bag in bags)
    columns = [f"attention_{k}" for k in range(branches)] if branches > 1 else ["attention"]
    header = ["bag_id", "instance", *columns]
    header += ["witness"] * with_witness + ["x", "y"] * with_coords
    rows = (row for bag in bags for row in _instance_rows(bag, with_witness, with_coords))
    write_csv(path, header, rows)


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
