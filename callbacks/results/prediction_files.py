"""Files of predictions: names of overlays, and the attention in bags, one row per instance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from callbacks.mil.bag_outputs import BagAttention
from formats.files import write_csv

Row = Sequence[Any]


def overlay_names(records: Iterable[Mapping[str, Any]]) -> dict[Any, str]:
    """Return the name of each image's overlay, a relative path, by image id.

    It is the name of the image file, with its folders, ending in ``.png`` (A341). Files that differ
    only in their suffix keep it (``a.jpg.png``), and names that are still equal on a system that
    ignores case get the id. No name leads out of the folder of the overlays.

    Args:
        records: ``id`` and ``file_name`` of each image.
    """
    files = {record["id"]: _inside(str(record["file_name"])) for record in records}
    stems = Counter(str(file.with_suffix("")).lower() for file in files.values())
    names: dict[Any, str] = {}
    taken: set[str] = set()
    for number, file in files.items():
        alone = stems[str(file.with_suffix("")).lower()] == 1
        name = file.with_suffix(".png").as_posix() if alone else f"{file.as_posix()}.png"
        if name.lower() in taken:
            name = f"{name.removesuffix('.png')}_{number}.png"
        taken.add(name.lower())
        names[number] = name
    return names


def _inside(name: str) -> PurePath:
    """Return a file name as a path below any folder."""
    path = PurePath(name.replace("\\", "/"))
    parts = [part for part in path.parts if part not in (path.anchor, "..")]
    return PurePath(*parts) if parts else PurePath("image")


def write_attention(path: Path, bags: Sequence[BagAttention]) -> None:
    """Write the columns ``bag_id[,slide_id],instance,attention[,witness][,x,y]``.

    Instances are numbered from 0 in the order of the bag; those of a patient are of several slides,
    whose id is in ``slide_id``. Attention with several branches has columns ``attention_0``,
    ``attention_1``, ... Optional columns are written if at least one bag has them.
    """
    branches = bags[0].weights.shape[1]
    with_witness = any(bag.witness is not None for bag in bags)
    with_slides = any(bag.parts for bag in bags)
    with_coords = any(
        bag.coords is not None or any(part.coords is not None for part in bag.parts) for bag in bags
    )
    columns = [f"attention_{k}" for k in range(branches)] if branches > 1 else ["attention"]
    header = ["bag_id", *["slide_id"] * with_slides, "instance", *columns]
    header += ["witness"] * with_witness + ["x", "y"] * with_coords
    optional = with_slides, with_witness, with_coords
    write_csv(path, header, (row for bag in bags for row in _instance_rows(bag, *optional)))


def _instance_rows(
    bag: BagAttention, with_slides: bool, with_witness: bool, with_coords: bool
) -> Iterator[Row]:
    count = len(bag.weights)
    witness = [""] * count if bag.witness is None else bag.witness.tolist()
    places: list[Row] = [["", ""]] * count if bag.coords is None else bag.coords.tolist()
    slides = [""] * count
    for part in bag.parts:  # one slide after another
        own = part.rows.stop - part.rows.start
        slides[part.rows] = [part.slide] * own
        places[part.rows] = [["", ""]] * own if part.coords is None else part.coords.tolist()
    for k, weights in enumerate(bag.weights.tolist()):
        row = [bag.bag_id, *[slides[k]] * with_slides, k, *map(repr, weights)]
        if with_witness:
            row.append("" if witness[k] == -1 else witness[k])
        if with_coords:
            row.extend(places[k])
        yield row
