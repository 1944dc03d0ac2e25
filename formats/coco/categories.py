"""Categories of a COCO file that no annotation uses and that are no classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from structures import Problem

Category = Mapping[str, Any]


def used_counts(annotations: Sequence[Any]) -> Counter[int]:
    """Return how many annotations refer to each category id; faulty records are ignored."""
    named = (a.get("category_id") for a in annotations if isinstance(a, dict))
    return Counter(number for number in named if isinstance(number, int))


def name_problems(
    path: Path, categories: Sequence[Category], used: Collection[int]
) -> tuple[list[Problem], list[Category]]:
    """Compare the names of categories.

    The same name twice is a fault only if annotations use both; otherwise the categories of that
    name that nothing uses can be left out.  # A312

    Args:
        path: path of the file, for the messages.
        categories: complete records.
        used: category ids that annotations refer to.

    Returns:
        The problems, and the categories to leave out.
    """
    names = Counter(str(category["name"]) for category in categories)
    problems, spare = [], []
    for name in sorted(name for name, count in names.items() if count > 1):
        same = [c for c in categories if str(c["name"]) == name]
        in_use = [c["id"] for c in same if c["id"] in used]
        if len(in_use) > 1:
            reason = f"category name {name!r} occurs twice, with the ids {in_use}"
            problems.append(Problem(path, None, None, reason, "rename one"))
        else:
            spare += [c for c in same if c["id"] not in used]
    return problems, spare


def case_problems(
    path: Path, categories: Sequence[Category], counts: Mapping[int, int]
) -> list[Problem]:
    """Return a problem for classes with objects whose names differ in case or blanks alone.

    Names of one character are left alone: `a` and `A` are two letters.  # A441

    Args:
        path: the file that declares the classes, for the messages.
        categories: its records.
        counts: category id -> number of annotations.
    """
    alike: dict[str, list[Category]] = {}
    for category in categories:
        name = str(category["name"])
        if len(name.strip()) > 1 and counts.get(category["id"]):
            alike.setdefault(" ".join(name.casefold().split()), []).append(category)
    return [
        Problem(
            path,
            None,
            None,
            "the class names "
            + " and ".join(f"{str(c['name'])!r} ({counts[c['id']]} annotations)" for c in same)
            + " differ in case or blanks only",
            "make them one class, or give two classes names that differ in more; bad_data: skip "
            "keeps both",
        )
        for same in alike.values()
        if len({str(c["name"]) for c in same}) > 1
    ]


def unused_root(categories: Sequence[Category], used: Collection[int]) -> Category | None:
    """Return the category 0 that groups the others and has no annotation, if there is one.

    Roboflow writes such an entry in front of the classes; they name it as their supercategory.
    A class 0 that only lacks annotations is not meant.  # A312
    """
    for category in categories:
        if category["id"] == 0 and 0 not in used:
            others = (c for c in categories if c["id"] != 0)
            if any(c.get("supercategory") == category["name"] for c in others):
                return category
    return None


def left_out_note(path: Path, categories: Sequence[Category]) -> str:
    """Return a note about categories that are left out."""
    named = ", ".join(f"{c['id']} ({str(c['name'])!r})" for c in categories)
    return f"{path}: category {named} has no annotation and is left out"
