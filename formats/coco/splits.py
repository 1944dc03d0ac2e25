"""Splits of the categories of a data set into known and novel ones, by name, file, ids or names.

The shipped splits follow from the tables in `formats/coco/split_tables`:

- ``voc``: the 20 categories of PASCAL VOC among the 80 of COCO.
- ``coco-uvo``: all 80 categories of COCO, as the dense annotations of UVO number them (A461).
- ``coco-objects365``: the 80 categories of Objects365 v2 that LDET takes as known (Saito et al.,
  ECCV 2022, arXiv 2112.01698), also for the names of COCO that have no counterpart there.
- ``coco-lvis``: the 79 categories of LVIS v1 that share a synset with one of COCO. Hot dog has
  none; ``coco-lvis-detic`` takes sausage for it, as Detic does (A460).
- ``lvis-ow``: SegPrompt (Zhu et al., ICCV 2023, arXiv 2308.06531): known are those 79 and the 64
  with the most training instances, unseen all rare ones, and seen the rest.
"""

from __future__ import annotations

import csv
import difflib
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from formats.coco.document import read_json

_TABLES = Path(__file__).parent / "split_tables"
_SETS = ("known", "seen", "unseen")
_MOST_INSTANCES = 64  # categories of LVIS-OW that are known by their number of instances


@dataclass(frozen=True, slots=True)
class CategorySplit:
    """Category ids of a data set by what a model may learn of them.

    Attributes:
        name: a shipped name, the stem of a file, or ``ids``.
        known: ids of the categories with labels in training, ascending.
        seen: ids of novel categories that occur in training images, or None where it is not said.
        unseen: ids of novel categories that occur in no training image, or None.
        names: names of categories by id, to notice annotations that number them otherwise.
    """

    name: str
    known: tuple[int, ...]
    seen: tuple[int, ...] | None = None
    unseen: tuple[int, ...] | None = None
    names: Mapping[int, str] = field(default_factory=dict, compare=False)

    @property
    def sha256(self) -> str:
        """Return the hash of the ids, which tells whether two scores used the same split."""
        sets = {kind: getattr(self, kind) for kind in _SETS}
        text = json.dumps({k: v for k, v in sets.items() if v is not None}, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def record(self) -> dict[str, Any]:
        """Return name, ids of the known categories and hash, for JSON."""
        return {"name": self.name, "ids": list(self.known), "sha256": self.sha256}

    def content(self) -> dict[str, Any]:
        """Return the content of a split file, which `split_from_record` reads."""
        sets = {kind: getattr(self, kind) for kind in _SETS}
        content = {"name": self.name} | {k: list(v) for k, v in sets.items() if v is not None}
        names = {str(i): self.names[i] for i in self.known if i in self.names}
        return content | ({"names": names} if names else {})

    def novel(self, categories: Iterable[Mapping[str, Any]]) -> tuple[int, ...]:
        """Return the ids of the other categories of a data set, ascending."""
        return tuple(sorted({int(c["id"]) for c in categories} - set(self.known)))


def _table(name: str) -> list[dict[str, str]]:
    with (_TABLES / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _shipped(name: str, table: str, known: Callable[[dict[str, str]], bool]) -> CategorySplit:
    rows = _table(table)
    ids = tuple(sorted(int(row["id"]) for row in rows if known(row)))
    return CategorySplit(name, ids, names={int(row["id"]): row["name"] for row in rows})


def _lvis(name: str, *more: int) -> CategorySplit:
    of_coco = {int(row["lvis_id"]) for row in _table("coco") if row["lvis_id"]} | set(more)
    return _shipped(name, "lvis_v1", lambda row: int(row["id"]) in of_coco)


def _lvis_ow() -> CategorySplit:
    base, rows = _lvis("lvis-ow"), _table("lvis_v1")
    by_instances = sorted(rows, key=lambda row: -int(row["train_instances"]))
    known = {*base.known, *(int(row["id"]) for row in by_instances[:_MOST_INSTANCES])}
    unseen = {int(row["id"]) for row in rows if row["frequency"] == "r"}
    seen = {int(row["id"]) for row in rows} - known - unseen
    known_ids, seen_ids, unseen_ids = (tuple(sorted(ids)) for ids in (known, seen, unseen))
    return CategorySplit("lvis-ow", known_ids, seen_ids, unseen_ids, base.names)


SHIPPED: dict[str, Callable[[], CategorySplit]] = {
    "voc": lambda: _shipped("voc", "coco", lambda row: row["voc"] == "1"),
    "coco-uvo": lambda: _shipped("coco-uvo", "coco", lambda _: True),
    "coco-objects365": lambda: _shipped(
        "coco-objects365", "objects365_v2", lambda row: row["ldet_known"] == "1"
    ),
    "coco-lvis": lambda: _lvis("coco-lvis"),
    "coco-lvis-detic": lambda: _lvis("coco-lvis-detic", 916),  # sausage
    "lvis-ow": _lvis_ow,
}


@functools.cache
def shipped_split(name: str) -> CategorySplit:
    """Return a shipped split.

    Raises:
        ValueError: there is no split of that name.
    """
    if name not in SHIPPED:
        raise ValueError(f"there is no split {name!r}; there are {', '.join(SHIPPED)}")
    return SHIPPED[name]()


def read_split(path: Path) -> CategorySplit:
    """Read a split from a JSON file ``{"name", "known": [ids], "seen"?, "unseen"?}``.

    Raises:
        ValueError: the file is missing or not such JSON, or an id is in two sets.
    """
    return split_from_record(read_json(path, "a split"), str(path))


def split_from_record(content: Any, where: str) -> CategorySplit:
    """Return the split of the content of such a file.

    Args:
        content: ``{"name", "known": [ids], "seen"?, "unseen"?, "names"?}``, the last with the name
            of a category by its id.
        where: the file, for messages.

    Raises:
        ValueError: a key is missing, or an id is in two sets.
    """
    expected = '{"name": "mine", "known": [1, 2, 3]}, with "seen" and "unseen" if there are any'
    if not isinstance(content, dict) or not isinstance(content.get("name"), str):
        raise ValueError(f"{where}: not a split; write {expected}")
    sets: dict[str, tuple[int, ...]] = {}
    for kind in _SETS:
        ids = content.get(kind)
        if ids is None and kind != "known":
            continue
        if not isinstance(ids, list) or not all(type(i) is int for i in ids):
            raise ValueError(f"{where}: {kind!r} is not a list of category ids; write {expected}")
        for other, taken in sets.items():
            if twice := sorted(set(ids) & set(taken)):
                raise ValueError(
                    f"{where}: category id {twice[0]} is in {other!r} and in {kind!r}; leave it in "
                    "one of them"
                )
        sets[kind] = tuple(sorted(set(ids)))
    named = content.get("names")
    names = {int(i): str(n) for i, n in named.items()} if isinstance(named, dict) else {}
    return CategorySplit(
        content["name"], sets["known"], sets.get("seen"), sets.get("unseen"), names
    )


def find_split(
    words: Sequence[str | int], categories: Sequence[Mapping[str, Any]], where: str
) -> CategorySplit:
    """Return the split that words of a command line or a configuration mean, for a data set.

    Args:
        words: a shipped name, a JSON file, ids of categories, or their names.
        categories: records with ``id`` and ``name`` of the data set.
        where: the file of the categories, for messages.

    Returns:
        The split; the ids of a shipped one are reduced to those of the data set.

    Raises:
        ValueError: a word means nothing, or an id or a name is not one of the data set's.
    """
    names = {int(c["id"]): str(c["name"]) for c in categories}
    texts = [str(word) for word in words]
    if len(texts) == 1 and texts[0] in SHIPPED:
        return fitted(shipped_split(texts[0]), names, where)
    if len(texts) == 1 and (texts[0].endswith(".json") or Path(texts[0]).is_file()):
        split = read_split(Path(texts[0]))
        check_ids(split, names, texts[0], where)
        return split
    if texts and all(text.lstrip("-").isdigit() for text in texts):
        split = CategorySplit("ids", tuple(sorted({int(text) for text in texts})))
        check_ids(split, names, "the known ids", where)
        return split
    by_name = {name: i for i, name in names.items()}
    for text in texts:
        if text not in by_name:
            near = difflib.get_close_matches(text, [*SHIPPED, *by_name], 3)
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "see its categories"
            raise ValueError(
                f"known: {text!r} is no split ({', '.join(SHIPPED)}), no JSON file and no category "
                f"of {where}; {hint}"
            )
    return CategorySplit("names", tuple(sorted(by_name[text] for text in texts)))


def check_ids(split: CategorySplit, names: Mapping[int, str], source: str, where: str) -> None:
    """Raise a ValueError if a split has an id that a data set lacks.

    Args:
        split: the split.
        names: name of each category of the data set by its id.
        source: where the split comes from, for the message.
        where: the file of the categories, for the message.
    """
    unknown = sorted({*split.known, *(split.seen or ()), *(split.unseen or ())} - set(names))
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise ValueError(
            f"{source}: category id {unknown[0]}{more} is not in {where}, which has "
            f"{len(names)} categories with ids {min(names, default=0)} to {max(names, default=0)}"
        )


def fitted(split: CategorySplit, names: Mapping[int, str], where: str) -> CategorySplit:
    """Return a split without the ids that a data set lacks.

    Args:
        split: a shipped split, or that of a checkpoint.
        names: name of each category of the data set by its id.
        where: the file of the categories, for the message.

    Raises:
        ValueError: most of the known categories have other names in the data set.
    """
    shared = [i for i in split.known if i in names and i in split.names]
    other = [i for i in shared if _plain(split.names[i]) != _plain(names[i])]
    if len(other) > len(shared) / 2:  # a few names may be spelt otherwise
        i = other[0]
        raise ValueError(
            f"split {split.name}: category id {i} is {split.names[i]!r} there and {names[i]!r} in "
            f"{where}, so its ids are not those of the split; give the names of the known "
            "categories instead, such as cat dog"
        )

    def reduced(ids: tuple[int, ...] | None) -> tuple[int, ...] | None:
        return None if ids is None else tuple(i for i in ids if i in names)

    known = tuple(i for i in split.known if i in names)
    return replace(split, known=known, seen=reduced(split.seen), unseen=reduced(split.unseen))


def _plain(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


def check_both(split: CategorySplit, categories: Sequence[Mapping[str, Any]], where: str) -> None:
    """Raise a ValueError unless the data set has known and novel categories."""
    if not split.known:
        raise ValueError(
            f"split {split.name}: none of the known categories is in {where}; name some of its "
            "categories, such as cat dog"
        )
    if not split.novel(categories):
        raise ValueError(
            f"split {split.name}: all {len(split.known)} categories of {where} are known, so there "
            "is nothing novel to find; name fewer of them, or use the protocol `all`"
        )
