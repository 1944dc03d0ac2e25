"""Any data set in COCO instances format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pytorch_lightning.utilities import rank_zero_info

from datamodules.seg.base import SegDataModule, Split, UnusableData
from datamodules.seg.coco_files import CocoFiles
from datamodules.seg.dataset import AnnotatedImage
from datamodules.transforms.label_maps import LabelMaps
from formats.coco.document import CocoFindings
from formats.coco.image_checks import size_mismatch
from formats.coco.store import AnnotationStore
from formats.images import Depth, header_size, read_rgb
from structures import CategoryMap, Problem, settle


@dataclass(frozen=True)
class CocoSource:
    """Images of a folder with the annotations of a file."""

    store: AnnotationStore
    folder: Path

    def __len__(self) -> int:
        return len(self.store)

    def read(self, index: int) -> AnnotatedImage:
        """Read one image.

        Raises:
            ValueError: the file is missing, broken or of another size than stated.
        """
        store, path = self.store, self.folder / self.store.name(index)
        image_id, stated = int(store.image_ids[index]), store.size(index)
        try:
            image = read_rgb(path)
        except ValueError as error:
            raise ValueError(f"image {image_id}: {error}") from error
        if image.shape[:2] != stated:
            reason, remedy = size_mismatch(path, stated, *header_size(path))
            raise ValueError(f"image {image_id}: {reason}; {remedy}")
        masks, labels, crowd = store.image(index)
        name = f"image {image_id} ({path})"
        return AnnotatedImage(image, LabelMaps.from_rle(masks), labels, crowd, image_id, name)

    def sizes(self) -> npt.NDArray[np.int64]:
        """Return (n, 2), height and width of every image."""
        return self.store.sizes

    def counts(self) -> npt.NDArray[np.int64]:
        """Return (n,), instances that are not crowds of every image."""
        return self.store.counts()


class CocoDataModule(SegDataModule):
    """COCO instances JSON with a folder of images.

    Polygons, run-length masks, crowds, images without objects and ids with gaps are all
    ordinary; images may be grey or colour with 8 or 16 bits. Labels follow the sorted category
    ids of the training file, which validation and test files may not contradict.

    Args:
        root: folder with ``images/{train,val}`` and ``annotations/instances_{train,val}.json``,
            and the same for ``test`` where there is one. Without a test split the validation split
            is tested and predicted.
        train_images: folder of training images, instead of the one under ``root``; so each path.
        train_annotations: file of training annotations.
        val_images: folder of validation images.
        val_annotations: file of validation annotations.
        test_images: folder of test images.
        test_annotations: file of test annotations.
        categories: names of the categories to keep; None for all. Images all stay.
        class_agnostic: every kept category becomes the one class ``object``, whose id is one
            above the file's largest, so that nobody takes it for a category of the data set.
        category_map: the map of a checkpoint ({ids, names}); then no training file is needed,
            files are read and checked when first used, and categories outside the map are left
            out. The map of a class-agnostic checkpoint implies ``class_agnostic``.
        **shared: the arguments of ``SegDataModule``.

    Raises:
        UnusableData: a file is missing or wrong and ``bad_data`` is ``error``, or leaving out
            records does not help: a file is no COCO file, categories contradict each other, or all
            training annotations are crowds. It holds all problems of all splits.
        ValueError: paths are named by halves.
    """

    path_argument = "test_annotations"
    asked_last = True

    def __init__(
        self,
        root: Path | str | None = None,
        *,
        train_images: Path | str | None = None,
        train_annotations: Path | str | None = None,
        val_images: Path | str | None = None,
        val_annotations: Path | str | None = None,
        test_images: Path | str | None = None,
        test_annotations: Path | str | None = None,
        categories: Sequence[str] | None = None,
        class_agnostic: bool = False,
        category_map: Mapping[str, Sequence[Any]] | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        named = {
            "train": (train_images, train_annotations),
            "val": (val_images, val_annotations),
            "test": (test_images, test_annotations),
        }
        base = None if root is None else Path(root)
        paths = {split: _locate(split, base, *pair) for split, pair in named.items()}
        self._categories = None if categories is None else list(categories)
        self._class_agnostic = class_agnostic
        self._sources: dict[str, CocoSource] = {}
        self._told_fallback = False
        # a broken image can only be left out while it is not yet counted on
        depth: Depth = "pixels" if self.bad_data == "skip" else "header"
        self._files = CocoFiles(paths, self._categories, class_agnostic, depth=depth)
        if category_map is not None:
            self.category_map = CategoryMap.from_dict(category_map)
            self._files.category_map = self.category_map
            return
        found = {split: self._files.examine(split) for split in self._files.splits()}
        self._admit(found)
        declared = found["train"].data["categories"]
        merged = CategoryMap.class_agnostic(max(c["id"] for c in declared) + 1)
        kept = CategoryMap.from_coco(declared, self._categories)
        self.category_map = merged if class_agnostic else kept
        for split, findings in found.items():
            self._add_source(split, findings.data)

    @classmethod
    def section_for(
        cls, path: Path, record: Mapping[str, Any], folder: Path | None = None
    ) -> dict[str, Any] | None:
        """Return the section for a file of annotations as the test split; see the base class.

        The folder of the images has to be given.
        """
        facts = record["facts"]
        if "category_map" not in facts or folder is None:
            return None
        known = facts["preprocessing"] | facts["categories"]
        files = {"test_annotations": str(path), "test_images": str(folder)}
        return cls.section(known | files | {"category_map": facts["category_map"]})

    def set_ground_truth(self, truth: Mapping[str, Any]) -> None:
        """Take the content of the test annotations, read and checked before; see the base class.

        Raises:
            UnusableData: its categories contradict ``category_map``.
        """
        masked = [a for a in truth["annotations"] if a.get("segmentation")]
        content = {**truth, "annotations": masked}
        self._admit({"test": CocoFindings([], False, content)})
        self._add_source("test", content)

    def _admit(self, found: Mapping[str, CocoFindings]) -> None:
        """Stop at problems, or count what is left out, as ``bad_data`` says."""
        problems, fatal = self._files.judge(found)
        if problems and (fatal or self.bad_data == "error"):
            raise UnusableData(problems, self)
        self.problems += settle(problems, self.bad_data)
        for split, findings in found.items():
            if findings.problems:
                counts = self._files.counts[split]
                rank_zero_info(
                    f"{self._files.of(split)[1]}: left out are {counts['left_out_pictures']} of "
                    f"{counts['pictures']} images and {counts['left_out_annotations']} of "
                    f"{counts['annotations']} annotations, those of such images included"
                )

    def _add_source(self, split: str, data: Mapping[str, Any]) -> CocoSource:
        store = AnnotationStore.from_coco(data, self._files.label_table(data, self.category_map))
        images, annotations = self._files.of(split)
        degenerate = store.count_degenerate()
        if degenerate:
            rank_zero_info(
                f"{annotations}: {degenerate} annotations have no pixel; they are left out of "
                "training targets and stay in the ground truth"
            )
        self._sources[split] = CocoSource(store, images)
        return self._sources[split]

    def check(self, thorough: bool = False) -> list[Problem]:
        """Read the files of every split anew and return all that is wrong with them.

        Args:
            thorough: also decode every image, however many there are.
        """
        depth: Depth | None = "pixels" if thorough else None
        found = {split: self._files.examine(split, depth) for split in self._files.splits()}
        return self._files.judge(found)[0]

    def summary(self) -> dict[str, dict[str, int]]:
        """Return what each split holds and how much of it ``skip`` leaves out."""
        for split in self._files.splits():
            if split not in self._files.counts:
                self._files.examine(split)
        return {split: dict(counts) for split, counts in self._files.counts.items()}

    def category_arguments(self) -> dict[str, Any]:
        """Return which categories were kept and whether they were merged, for a checkpoint."""
        return {"categories": self._categories, "class_agnostic": self._class_agnostic}

    def source(self, split: Split) -> CocoSource:
        """Return the images of a split; ``predict`` stands for ``test``.

        Raises:
            ValueError: there is no such split or its files are wrong.
        """
        name = "test" if split == "predict" else split
        if name == "test" and self._files.paths["test"] is None:
            if not self._told_fallback:
                rank_zero_info("there is no test split: the validation split is used")
            self._told_fallback = True
            name = "val"
        if name not in self._sources:
            findings = self._files.examine(name)
            self._admit({name: findings})
            return self._add_source(name, findings.data)
        return self._sources[name]

    def ground_truth(self, split: Split) -> dict[str, Any]:
        """Return the annotations of a split as COCO dictionary, degenerate ones included."""
        return self.source(split).store.to_coco(self.category_map)

    def image_records(self, split: Split) -> list[dict[str, Any]]:
        """Return the records of the images with the absolute ``path`` of each file."""
        source = self.source(split)
        records = source.store.image_records()
        folder = source.folder.resolve()
        return [r | {"path": str(folder / r["file_name"])} for r in records]


def _locate(
    split: str,
    root: Path | None,
    images: Path | str | None,
    annotations: Path | str | None,
) -> tuple[Path, Path] | None:
    """Return the folder and the file of a split, or None where nothing is there or named."""
    default_file = None if root is None else root / "annotations" / f"instances_{split}.json"
    if annotations is None and (default_file is None or not default_file.is_file()):
        if images is not None:
            raise ValueError(f"{split}_images is given without {split}_annotations")
        if split == "train" and default_file is not None:
            raise ValueError(f"annotation file {default_file} is missing; check root")
        return None
    file = default_file if annotations is None else Path(annotations)
    folder = None if root is None else root / "images" / split
    folder = folder if images is None else Path(images)
    if folder is None or file is None:
        raise ValueError(f"{split}_annotations is given without {split}_images")
    return folder, file
