"""Known and novel categories of a data set: what a model may learn, and what it is scored on.

Training images keep the pixels of novel objects, which have no label. Left out are images with a
side below 32 px or without a known object, and known crowds are regions that losses ignore, as in
OLN (Kim et al., RA-L 2022, arXiv 2108.06753) and the work after it. Truth for scoring keeps every
object with its category.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from formats.coco import pseudo as pseudo_labels
from formats.coco.splits import CategorySplit, check_both, check_ids, find_split, split_from_record
from formats.coco.store import AnnotationStore
from structures import CategoryMap

Known = Sequence[str | int] | Mapping[str, Any] | str | int
"""What the argument ``known`` may be: a shipped split, a JSON file, an id or a name; several ids or
names; or the content of a split file, {name, known, seen?, unseen?}."""


@dataclass(frozen=True, slots=True)
class KnownView:
    """The part of a data set's categories that a model learns.

    Attributes:
        split: the known and the novel categories.
        learnt: the classes of the model: the known categories, or the single class ``object``.
        class_agnostic: whether the known categories are merged into that class.
        pseudo: id of the category of pseudo-labels that are learnt beside the known, or None.
    """

    split: CategorySplit
    learnt: CategoryMap
    class_agnostic: bool
    pseudo: int | None = None

    @classmethod
    def of(
        cls,
        known: Known,
        categories: Sequence[Mapping[str, Any]],
        where: str,
        class_agnostic: bool,
        *,
        pseudo: bool = False,
    ) -> KnownView:
        """Return the view of a data set.

        Args:
            known: see `Known`.
            categories: records with ``id`` and ``name``.
            where: the file of the categories, for messages.
            class_agnostic: whether known categories are merged.
            pseudo: whether the objects of the category ``pseudo`` are learnt beside the known.

        Raises:
            ValueError: a word means nothing for this data set, nothing or everything is known, or
                there is no category ``pseudo`` to learn.
        """
        if pseudo:
            pseudo_labels.check_category(categories, where)
        own = pseudo_labels.category_id(categories) if pseudo else None
        names = {int(c["id"]): str(c["name"]) for c in categories}
        if isinstance(known, Mapping):
            split = split_from_record(known, "data.known")
            check_ids(split, names, "data.known", where)
        else:
            words = [known] if isinstance(known, str | int) else list(known)
            split = find_split(words, categories, where)
        check_both(split, [c for c in categories if c["id"] != own], where)
        split = replace(split, names=names)
        whole = CategoryMap.from_coco(categories)
        if class_agnostic:
            return cls(split, merged_class(whole), True, own)
        ids = [*split.known, *([] if own is None else [own])]
        return cls(split, CategoryMap.from_coco(categories, [names[i] for i in ids]), False, own)

    @classmethod
    def restored(
        cls, known: Known | None, learnt: CategoryMap, class_agnostic: bool
    ) -> KnownView | None:
        """Return the view of a checkpoint, whose data need not have all of its categories.

        Raises:
            ValueError: ``known`` is not the content of a split.
        """
        if known is None:
            return None
        return cls(split_from_record(known, "data.known"), learnt, class_agnostic)

    def labels(self) -> dict[int, int]:
        """Return category id -> label of the known categories, and of pseudo-labels learnt."""
        if self.class_agnostic:
            return dict.fromkeys([*self.split.known, *self._own()], 0)
        return self.learnt.labels()

    def _own(self) -> list[int]:
        return [] if self.pseudo is None else [self.pseudo]

    def known_part(self, store: AnnotationStore, whole: CategoryMap) -> AnnotationStore:
        """Return the known objects of annotations with the labels of the model.

        Args:
            store: annotations of all categories.
            whole: the categories behind their labels.
        """
        labels = self.labels()
        return store.relabelled({k: labels[i] for k, i in enumerate(whole.ids) if i in labels})

    def note(self, store: AnnotationStore, categories: int, where: str, found: int = 0) -> str:
        """Return the sentence that says how many training objects are known.

        Args:
            store: annotations that are learnt.
            categories: how many the file has.
            where: the file.
            found: how many of the annotations are pseudo-labels.
        """
        known, objects = len(self.split.known), int((~store.crowd).sum()) - found
        learnt = "" if self.pseudo is None else f", {found} pseudo-labels are learnt beside them"
        return (
            f"{where}: {known} of {categories - len(self._own())} categories are known (split "
            f"{self.split.name}), with {objects} objects{learnt}; those of the other categories "
            "have no label in training"
        )


def merged_class(whole: CategoryMap) -> CategoryMap:
    """Return the map of the single class ``object``, with an id above those of a data set."""
    return CategoryMap.class_agnostic(max(whole.ids) + 1)
