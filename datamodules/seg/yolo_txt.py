"""Datamodule of data sets in YOLO segmentation layout."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_info

from datamodules.seg.base import SegDataModule, Split
from datamodules.seg.coco import CocoSource
from datamodules.seg.coco_files import HEADER_LIMIT
from datamodules.seg.dataset import ObjectCounts
from datamodules.seg.held_out import check_fraction, divide_images, record_division
from datamodules.seg.open_world import Known, KnownView, merged_class
from datamodules.seg.unusable import UnusableData
from formats.coco.categories import case_problems, used_counts
from formats.coco.store import AnnotationStore
from formats.images import Depth, ImageOptions
from formats.yolo.annotations import YoloFindings, read_split
from formats.yolo.data_yaml import SPLITS, YoloSet
from formats.yolo.layouts import FoundSet, find_set
from structures import CategoryMap, Problem, settle


class YoloTxtDataModule(SegDataModule):
    """A data set with a ``data.yaml``, image folders and one label file per image.

    A line ``class x1 y1 x2 y2 ...`` is an object, with points as fractions of the width and height
    of the image; the label file of ``.../images/a.jpg`` is ``.../labels/a.txt``. An image whose
    label file is missing or empty has no objects. Category ids are the class numbers; images are
    numbered from 1 in the order of their names.

    Args:
        root: folder with ``data.yaml``, or without one in a layout of ``formats.yolo.layouts``;
            together with ``data_yaml``, the folder to which the paths of the splits are relative,
            instead of the file's ``path``. Without a test split the validation split is used for
            testing and prediction.
        data_yaml: the file, if it is not ``root/data.yaml``.
        val_fraction: share of the training images, in (0, 1), that becomes the validation split of
            a set without one. It is drawn by image, with ``seed``; ``splits.csv`` of a run lists
            the images.
        known: the classes that are learnt: their numbers or names, or a JSON file. Objects of the
            others are not labelled in training; ground truth for scoring keeps them
            (`datamodules.seg.open_world`).
        class_agnostic: merge all or all known classes into the single class ``object``, whose
            number is one above the largest.
        boxes_as_masks: accept the lines of detection data sets (class, centre, width, height) as
            rectangular objects instead of raising an error.
        category_map: the map of a checkpoint ({ids, names}), with which the file must agree; then
            images and labels are read on first use, and training images need not exist.
        **shared: the arguments of ``SegDataModule``.

    Raises:
        ValueError: a file is missing or wrong (problems are listed with file, image, line and
            remedy), or no training image contains an object.
    """

    def __init__(
        self,
        root: Path | str | None = None,
        *,
        data_yaml: Path | str | None = None,
        val_fraction: float | None = None,
        known: Known | None = None,
        class_agnostic: bool = False,
        boxes_as_masks: bool = False,
        category_map: Mapping[str, Sequence[Any]] | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if root is None and data_yaml is None:
            raise ValueError(
                "data.root names no folder; give --data.root DIR, a folder with data.yaml, or "
                "--data.data_yaml FILE, the file itself"
            )
        self._dataset, self.notes = _find(root, data_yaml)
        file = self._dataset.file
        self._boxes_as_masks = boxes_as_masks
        check_fraction(val_fraction, ", ".join(self._dataset.entries.get("val", [])) or None)
        self._val_fraction = val_fraction
        self._held: dict[str, int] = {}  # counts of the images that are held out
        self._sources: dict[str, CocoSource] = {}
        self._wholes: dict[str, AnnotationStore] = {}  # with novel objects
        self._counts: dict[str, dict[str, int]] = {}
        self._fallback_reported = False
        whole, self.class_agnostic = self._dataset.category_map, class_agnostic
        if category_map is not None:
            self.category_map = CategoryMap.from_dict(category_map)
            self._view = KnownView.restored(known, self.category_map, class_agnostic)
            if not class_agnostic and self._view is None:
                self.category_map.check_same(whole, "the checkpoint", str(file))
            return
        if known is not None:
            self._view = KnownView.of(known, whole.to_coco(), str(file), class_agnostic)
        self.category_map = merged_class(whole) if class_agnostic else whole
        if self._view is not None:
            self.category_map = self._view.learnt
        found = {split: self._examine(split) for split in self._splits}
        self._raise_or_count(found)
        if "test" in self._dataset.entries and "test" not in self._splits:
            place = ", ".join(self._dataset.entries["test"])
            self.notes += (f"{file}: there is no {place}, so the test split cannot be used",)
        for note in self.notes:
            rank_zero_info(note)
        for split, findings in found.items():
            self._add_parts(split, findings)

    @property
    def _splits(self) -> list[str]:
        """Declared splits; a test split whose folder is missing matters only when it is used."""
        declared = [split for split in SPLITS if split in self._dataset.entries]
        return [s for s in declared if s != "test" or self._dataset.exists(s)]

    def _examine(self, split: str, depth: Depth | None = None) -> YoloFindings:
        # a broken image cannot be left out any more once the samplers are built  # A52
        usual: Depth = "header" if self.bad_data == "error" else "pixels"
        limit = HEADER_LIMIT if depth is None else math.inf
        findings = read_split(
            self._dataset,
            split,
            self._boxes_as_masks,
            depth or usual,
            limit,
            self._reading,
            mend=self.bad_data == "repair",
        )
        self._counts[split] = findings.counts | {"categories": len(self._dataset.names)}
        return findings

    @property
    def _reading(self) -> ImageOptions:
        options = self.image_options  # sizes come from the images, so they do not decide  # A321
        return dataclasses.replace(options, exif=options.exif or "apply")

    def _judge(self, found: Mapping[str, YoloFindings]) -> tuple[list[Problem], bool]:
        """Return all problems of some splits, and whether one of them cannot be skipped."""
        file = self._dataset.file
        problems = [problem for findings in found.values() for problem in findings.problems]
        empty = [split for split, findings in found.items() if not findings.data["images"]]
        beyond = [
            Problem(file, None, None, f"no image of {split} is left", "fix some of them")
            for split in empty
            if found[split].counts["pictures"]
        ]
        for split, findings in found.items():
            if findings.data["images"] and not findings.data["annotations"]:
                beyond += self._without_objects(split, findings.counts)
        counts = sum((used_counts(f.data["annotations"]) for f in found.values()), Counter[int]())
        problems += case_problems(file, self._dataset.category_map.to_coco(), counts)
        return problems + beyond, bool(beyond or empty)

    def _without_objects(self, split: str, counts: Mapping[str, int]) -> list[Problem]:
        """Return the problem of a split without an object.

        A test split that never had an object can be predicted.  # A313
        """
        had = counts["annotations"] > 0
        if split == "test" and not had:
            return []
        had = had or counts["left_out_pictures"] > 0
        use = "learnt" if split == "train" else "scored"
        reason = f"no object of {split} is left" if had else f"no image of {split} has an object"
        remedy = "check the label files"
        return [Problem(self._dataset.file, None, None, f"{reason}: nothing can be {use}", remedy)]

    def _raise_or_count(self, found: Mapping[str, YoloFindings]) -> None:
        """Raise an error for problems, or count what is left out, depending on ``bad_data``."""
        problems, fatal = self._judge(found)
        if problems and (fatal or self.bad_data == "error"):
            raise UnusableData(problems, self)
        self.problems += settle(problems, self.bad_data)
        for split in found:
            counts = self._counts[split]
            if counts["unlabelled"]:
                rank_zero_info(
                    f"{self._dataset.file}: {counts['unlabelled']} of {counts['pictures']} "
                    f"images of {split} have no label file and therefore no objects"
                )
            if counts["left_out_pictures"] or counts["left_out_annotations"]:
                rank_zero_info(
                    f"{self._dataset.file}: left out of {split}: "
                    f"{counts['left_out_pictures']} of {counts['pictures']} images and "
                    f"{counts['left_out_annotations']} of {counts['annotations']} annotations"
                )

    def _add_parts(self, split: str, findings: YoloFindings) -> None:
        """Add the images of a split, or of both parts of one that is divided."""
        if split != "train" or self._val_fraction is None:
            self._add_source(split, findings)
            return
        kept, held = divide_images(findings.data, self._val_fraction, self.seed)
        self._held = {"pictures": len(held["images"]), "annotations": len(held["annotations"])}
        for part, data in (("train", kept), ("val", held)):
            self._add_source(part, findings._replace(data=data))

    def _add_source(self, split: str, findings: YoloFindings) -> None:
        whole, file = self._dataset.category_map, self._dataset.file
        merged = self.class_agnostic and self._view is None
        labels = dict.fromkeys(whole.ids, 0) if merged else whole.labels()
        store = every = AnnotationStore.from_coco(findings.data, labels)
        if self._view is not None:
            store = self._view.known_part(every, whole)
            if split == "train":
                self._note(self._view.note(store, len(whole), str(file)))
            else:
                self._wholes[split] = every
        self._note_empty_masks(file, split, store if split == "train" else every)
        self._sources[split] = CocoSource(store, findings.folder, self._reading)

    def source(self, split: Split) -> CocoSource:
        """Return the images of a split; ``predict`` stands for ``test``.

        Raises:
            ValueError: the split does not exist or its files are wrong.
        """
        name = self._name_of(split)
        if name not in self._sources:
            file = "train" if name == "val" and self._val_fraction is not None else name
            findings = self._examine(file)
            self._raise_or_count({file: findings})
            self._add_parts(file, findings)
        return self._sources[name]

    def _name_of(self, split: Split) -> str:
        """Return the split whose files are used."""
        name = "test" if split == "predict" else split
        if name == "test" and "test" not in self._dataset.entries:
            if not self._fallback_reported:
                rank_zero_info("there is no test split: the validation split is used")
            self._fallback_reported = True
            name = "val"
        return name

    def setup(self, stage: str) -> None:
        """Also record which training images are held out as ``splits.csv`` in the run's folder."""
        super().setup(stage)
        if stage == "fit" and self._val_fraction is not None:
            train, val = self.source("train").store, self.source("val").store
            parts = {"train": train.image_records(), "val": val.image_records()}
            record_division(self.trainer, parts)

    def ground_truth(self, split: Split) -> dict[str, Any]:
        """Return the annotations of a split as a COCO dictionary, including degenerate ones.

        With ``known`` it has the objects of all classes, but for training only the known ones.
        """
        self.source(split)  # reads the files
        if self._name_of(split) not in self._wholes:
            return self.labelled_truth(split)
        return self._wholes[self._name_of(split)].to_coco(self._dataset.category_map)

    def labelled_truth(self, split: Split) -> dict[str, Any]:
        """Return the annotations of the classes of the model as a COCO dictionary."""
        return self.source(split).store.to_coco(self.category_map)

    def object_counts(self, split: Split) -> ObjectCounts | None:
        """Return how many objects the images and the classes of a split have."""
        missing = split not in self._dataset.entries and split not in self._sources
        return None if missing else self.source(split).object_counts(self.num_classes)

    def image_records(self, split: Split) -> list[dict[str, Any]]:
        """Return the records of the images with the absolute ``path`` of each file."""
        source = self.source(split)
        folder = source.folder.resolve()
        return [r | {"path": str(folder / r["file_name"])} for r in source.store.image_records()]

    def check(self, thorough: bool = False) -> list[Problem]:
        """Read the files of every split again and return all their problems."""
        depth: Depth | None = "pixels" if thorough else None
        return self._judge({split: self._examine(split, depth) for split in self._splits})[0]

    def summary(self) -> dict[str, dict[str, int]]:
        """Return the counts of images, annotations and categories of every split."""
        for split in self._splits:
            if split not in self._counts:
                self._examine(split)
        counts = {split: dict(self._counts[split]) for split in self._splits}
        if self._held:
            counts["train"] |= {name: counts["train"][name] - n for name, n in self._held.items()}
            rest = {name: 0 for name in counts["train"] if name not in self._held}
            rest["categories"] = counts["train"]["categories"]
            counts["val"] = self._held | rest
        return counts


def _find(root: Path | str | None, data_yaml: Path | str | None) -> FoundSet:
    """Return the set of a file or a folder."""
    if data_yaml is None:
        return find_set(Path(str(root)))
    file, base = Path(data_yaml), None if root is None else Path(root)
    if base is None or base.is_dir():
        return FoundSet(YoloSet.read(file, base), ())
    note = f"there is no data.root {base}, so {file} says where the images are"
    return FoundSet(YoloSet.read(file), (note,))
