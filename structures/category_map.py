"""Mapping between the category ids of a data set and 0-based labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class CategoryMap:
    """Ordered categories of a data set: label l stands for ``ids[l]`` named ``names[l]``.

    Ids may have gaps, start at 0 or be large. Labels follow the sorted ids of the *training*
    annotations, so that they never depend on the order in a file. The map is saved in the
    checkpoint, and every file written has the ids of the data set.

    Raises:
        ValueError: an id or a name occurs twice, or the lengths differ.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.names):
            raise ValueError(f"{len(self.ids)} category ids but {len(self.names)} names")
        for kind, values in (("id", self.ids), ("name", self.names)):
            twice = sorted({str(v) for v in values if list(values).count(v) > 1})
            if twice:
                raise ValueError(f"category {kind} {', '.join(twice)} occurs twice")

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def from_coco(
        cls, categories: Iterable[Mapping[str, Any]], keep: Sequence[str] | None = None
    ) -> CategoryMap:
        """Build the map from the ``categories`` list of a COCO file.

        Args:
            categories: records with ``id`` and ``name``.
            keep: names of the categories to keep, or None for all.

        Raises:
            ValueError: a name in ``keep`` is not in the file.
        """
        pairs = sorted((int(c["id"]), str(c["name"])) for c in categories)
        if keep is not None:
            known = {name for _, name in pairs}
            missing = [name for name in keep if name not in known]
            if missing:
                raise ValueError(
                    f"categories {missing} are not in the file; it has {sorted(known)}"
                )
            pairs = [(i, name) for i, name in pairs if name in set(keep)]
        return cls(tuple(i for i, _ in pairs), tuple(name for _, name in pairs))

    @classmethod
    def class_agnostic(cls, category_id: int = 1, name: str = "object") -> CategoryMap:
        """Return a map with a single class that covers every category.

        Args:
            category_id: written to files; choose one that the data set does not use.
            name: name of the class.
        """
        return cls((category_id,), (name,))

    def label(self, category_id: int) -> int:
        """Return the 0-based label of a category id.

        Raises:
            ValueError: the id is unknown.
        """
        try:
            return self.ids.index(category_id)
        except ValueError:
            raise ValueError(
                f"unknown category id {category_id}; known ids are {list(self.ids)}"
            ) from None

    def labels(self) -> dict[int, int]:
        """Return the lookup table id -> label."""
        return {category: label for label, category in enumerate(self.ids)}

    def check_same(self, other: CategoryMap, ours: str, theirs: str) -> None:
        """Check that a second file gives the same names to the same ids.

        A file may lack categories; it may not rename or add one.

        Args:
            other: the map of the second file.
            ours: name of this file in the message.
            theirs: name of the other file in the message.

        Raises:
            ValueError: an id of ``other`` is unknown here or has another name.
        """
        names = dict(zip(self.ids, self.names, strict=True))
        wrong = [
            f"id {i} is {name!r} in {theirs} and {names.get(i, 'absent')!r} in {ours}"
            for i, name in zip(other.ids, other.names, strict=True)
            if names.get(i) != name
        ]
        if wrong:
            raise ValueError("category maps differ: " + "; ".join(wrong))

    def to_coco(self) -> list[dict[str, Any]]:
        """Return the ``categories`` list of a COCO file."""
        return [{"id": i, "name": n} for i, n in zip(self.ids, self.names, strict=True)]

    def to_dict(self) -> dict[str, list[Any]]:
        """Return plain lists for a checkpoint."""
        return {"ids": list(self.ids), "names": list(self.names)}

    @classmethod
    def from_dict(cls, state: Mapping[str, Sequence[Any]]) -> CategoryMap:
        """Build the map from the output of ``to_dict``."""
        return cls(tuple(int(i) for i in state["ids"]), tuple(str(n) for n in state["names"]))
