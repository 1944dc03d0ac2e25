"""Objects that a model found and another is to learn, in a COCO instances file.

They have a category of their own, ``pseudo``, and ``is_pseudo: 1``; `commands/pseudo_labels.py`
writes them. Truth for scoring never contains them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

NAME = "pseudo"


def category_id(categories: Iterable[Mapping[str, Any]]) -> int | None:
    """Return the id of the category ``pseudo``, None where there is none."""
    return next((int(c["id"]) for c in categories if str(c["name"]) == NAME), None)


def check_category(categories: Sequence[Mapping[str, Any]], where: str) -> None:
    """Check that data from which ``data.pseudo: true`` learns have the category.

    Raises:
        ValueError: they do not.
    """
    if category_id(categories) is None:
        raise ValueError(
            f"{where}: data.pseudo: true, but none of its {len(categories)} categories is {NAME!r};"
            " write such a file by `python evaluate.py pseudo-labels`, or set data.pseudo: false"
        )


def without_pseudo(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a COCO dictionary without the annotations that a model made."""
    if not any(a.get("is_pseudo") for a in data["annotations"]):
        return data
    return {**data, "annotations": [a for a in data["annotations"] if not a.get("is_pseudo")]}
