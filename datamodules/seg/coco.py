"""Datamodule of data sets in COCO instances format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from pytorch_lightning.utilities import rank_zero_info

from datamodules.seg.base import SegDataModule, Split
from datamodules.seg.coco_files import CocoFiles
from datamodules.seg.coco_layouts import locate
from datamodules.seg.dataset import AnnotatedImage, ObjectCounts
from datamodules.seg.held_out import check_fraction, record_division
from datamodules.seg.open_world import Known, KnownView, merged_class
from datamodules.seg.unusable import UnusableData
from datamodules.transforms.label_maps import LabelMaps
from datamodules.transforms.raw.files import all_raw, read_linear
from formats.coco.document import CocoFindings, load_coco
from formats.coco.image_checks import size_mismatch
from formats.coco.image_labels import ImageLabelStore
from formats.coco.pseudo import NAME, check_category, without_pseudo
from formats.coco.store import AnnotationStore
from formats.images import Depth, ImageOptions, read_header, read_rgb
from structures import CategoryMap, Problem, settle


@dataclass(frozen=True)
class CocoSource:
    """The images of a folder with the annotations of a file.

    Attributes:
        store: the annotations.
        folder: of the images.
        options: how they are read.
        raw: the images are RAW files of a camera (A498).
        linear: they are read as the sensor's colours, not developed.
        image_labels: labels of whole images, or None.
    """

    store: AnnotationStore
    folder: Path
    options: ImageOptions = field(default_factory=ImageOptions)
    raw: bool = False
    linear: bool = False
    image_labels: ImageLabelStore | None = None

    def __len__(self) -> int:
        return len(self.store)

    def file(self, index: int) -> Path:
        """Return the path of an image."""
        return self.folder / self.store.name(index)

    def read(self, index: int) -> AnnotatedImage:
        """Read one image.

        Raises:
            ValueError: the file is missing or broken, or its size differs from the annotations.
        """
        store, path = self.store, self.file(index)
        image_id, stated = store.image_ids[index].item(), store.size(index)
        try:
            image: Any = read_linear(path) if self.linear else read_rgb(path, self.options, stated)
        except ValueError as error:
            raise ValueError(f"image {image_id}: {error}") from error
        if image.shape[:2] != stated:
            header = read_header(path, self.options)
            reason, remedy = size_mismatch(header, stated, image.shape[:2])
            raise ValueError(f"image {image_id}: {reason}; {remedy}")
        masks, labels, crowd = store.image(index)
        name = f"image {image_id} ({path})"
        of_image = None if self.image_labels is None else self.image_labels.image(index)
        maps = LabelMaps.from_rle(masks)
        return AnnotatedImage(image, maps, labels, crowd, image_id, name, of_image)

    def sizes(self) -> npt.NDArray[np.int64]:
        """Return the (n, 2) heights and widths of the images."""
        return self.store.sizes

    def counts(self) -> npt.NDArray[np.int64]:
        """Return the (n,) number of non-crowd instances in each image."""
        return self.store.counts()

    def objects(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return (M,) images and (M,) labels of the instances that can be learnt."""
        return self.store.objects()

    def object_counts(self, num_classes: int) -> ObjectCounts:
        """Return the numbers of objects of the images and the classes."""
        labels = self.store.labels[~self.store.crowd]
        by_class = np.bincount(labels, minlength=num_classes).astype(np.int64)
        return ObjectCounts(self.counts(), by_class)


class CocoDataModule(SegDataModule):
    """COCO instances JSON with a folder of images.

    Polygons, run-length masks, crowds, images without objects and ids with gaps are supported;
    images may be grey or colour with 8 or 16 bits, or RAW files of a camera. Labels follow the
    sorted category ids of the training file, with which validation and test files must agree.

    Args:
        root: folder in a layout of ``datamodules.seg.coco_layouts``. Without a test split the
            validation split is used for testing and prediction.
        train_images: folder of training images. Each of these paths replaces the one in ``root``.
        train_annotations: file of training annotations.
        val_images: folder of validation images.
        val_annotations: file of validation annotations.
        test_images: folder of test images.
        test_annotations: file of test annotations.
        val_fraction: share of the training images, in (0, 1), that becomes the validation split of
            a set without one. It is drawn by image, with ``seed``; ``splits.csv`` of a run lists
            the images.
        categories: names of the categories to keep; None for all. All images are kept.
        known: the categories that are learnt, as ``evaluate.py open-world --known`` takes them: a
            shipped split, a JSON file, ids or names. Objects of the others are not labelled in
            training; ground truth for scoring keeps them (`datamodules.seg.open_world`).
        pseudo: learn the objects of the category ``pseudo``, which `evaluate.py pseudo-labels` has
            written to the training file, beside the known ones (A607). They are never scored.
        class_agnostic: merge all kept or known categories into the single class ``object``, whose
            id is one above the largest id of the file, so that it cannot be confused with a
            category of the data set.
        category_map: the map of a checkpoint ({ids, names}); then no training file is needed,
            files are read and checked on first use, and categories outside the map are left out.
            The map of a class-agnostic checkpoint implies ``class_agnostic``.
        **shared: the arguments of ``SegDataModule``.

    Raises:
        UnusableData: a file is missing or wrong and ``bad_data`` is ``error``, or leaving out
            records does not help: a file is not a COCO file, categories contradict each other, or
            a split has no object. The error contains the problems of all splits.
        ValueError: only one of the two paths of a split is given, or ``root`` has no known layout,
            or several; ``known`` means nothing for these categories, or all or none of them.
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
        val_fraction: float | None = None,
        categories: Sequence[str] | None = None,
        known: Known | None = None,
        pseudo: bool = False,
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
        paths, looked = locate(base, named)
        self._categories = None if categories is None else list(categories)
        self.class_agnostic, self._pseudo = class_agnostic, pseudo
        if known is not None and categories is not None:
            raise ValueError("data.categories and data.known exclude each other; list known ones")
        if pseudo and categories is not None and NAME not in categories:
            raise ValueError(f"data.categories leaves out {NAME!r}, which data.pseudo: true learns")
        self._sources: dict[str, CocoSource] = {}
        self._wholes: dict[str, tuple[AnnotationStore, CategoryMap]] = {}  # with novel objects
        self._fallback_reported = False
        # a broken image cannot be left out any more once the samplers are built
        depth: Depth = "header" if self.bad_data == "error" else "pixels"
        self._files = CocoFiles(
            paths,
            self._categories,
            class_agnostic,
            depth=depth,
            mend=self.bad_data == "repair",
            looked=looked,
            options=self.image_options,
            val_fraction=val_fraction,
            seed=self.seed,
            load=self._load,
        )
        check_fraction(val_fraction, None if paths["val"] is None else paths["val"][1])
        if category_map is not None:
            self.category_map = CategoryMap.from_dict(category_map)
            self._files.category_map = self.category_map
            self._view = KnownView.restored(known, self.category_map, class_agnostic)
            return
        found = self._files.examine_all(self._files.splits())
        self._raise_or_count(found)
        self.category_map = self._classes(found["train"].data, known)
        for split, findings in found.items():
            self._add_source(split, findings.data)

    def _classes(self, data: Mapping[str, Any], known: Known | None) -> CategoryMap:
        """Return the classes of the model, and set which of them are known.

        Args:
            data: content of the training file.
            known: the argument.

        Raises:
            UnusableData: no training object is known.
        """
        file = str(self._files.of("train")[1])
        if known is None and self._pseudo:
            check_category(data["categories"], file)
        if known is None and self.class_agnostic:
            return merged_class(CategoryMap.from_coco(data["categories"]))
        if known is None:
            return CategoryMap.from_coco(data["categories"], self._categories)
        self._view = KnownView.of(
            known, data["categories"], file, self.class_agnostic, pseudo=self._pseudo
        )
        labels = self._view.labels()
        objects = (a for a in data["annotations"] if not a.get("iscrowd"))
        if not any(a["category_id"] in labels for a in objects):
            reason = "no image of train has an object of a known category: nothing can be learnt"
            raise UnusableData([Problem(Path(file), None, None, reason, "name others")], self)
        return self._view.learnt

    def _load(self, path: Path) -> dict[str, Any]:
        """Read an annotation file; data sets with other conventions translate it here."""
        return load_coco(path)

    @classmethod
    def section_for(
        cls, path: Path, record: Mapping[str, Any], folder: Path | None = None
    ) -> dict[str, Any] | None:
        """Return the section for an annotation file as the test split; see the base class.

        The folder of the images must be given.
        """
        facts = record["facts"]
        if "category_map" not in facts or folder is None:
            return None
        known = facts["preprocessing"] | facts["categories"]
        files = {"test_annotations": str(path), "test_images": str(folder)}
        return cls.section(known | files | {"category_map": facts["category_map"]})

    def set_ground_truth(self, truth: Mapping[str, Any]) -> None:
        """Set the content of the test annotations, already read and checked; see the base class.

        Raises:
            UnusableData: the categories contradict ``category_map``.
        """
        masked = [a for a in truth["annotations"] if a.get("segmentation")]
        content = {**truth, "annotations": masked}
        self._raise_or_count({"test": CocoFindings([], False, content)})
        self._add_source("test", content)

    def _raise_or_count(self, found: Mapping[str, CocoFindings]) -> None:
        """Raise an error for problems, or count what is left out, depending on ``bad_data``."""
        problems, fatal = self._files.judge(found)
        if problems and (fatal or self.bad_data == "error"):
            raise UnusableData(problems, self)
        self.problems += settle(problems, self.bad_data)
        for split, findings in found.items():
            self.notes += findings.notes
            for note in findings.notes:
                rank_zero_info(note)
            counts = self._files.counts.get(split, {})
            if counts.get("left_out_pictures") or counts.get("left_out_annotations"):
                rank_zero_info(
                    f"{self._files.of(split)[1]}: left out {counts['left_out_pictures']} of "
                    f"{counts['pictures']} images and {counts['left_out_annotations']} of "
                    f"{counts['annotations']} annotations, including those of these images"
                )

    def _add_source(self, split: str, data: Mapping[str, Any]) -> CocoSource:
        images, annotations = self._files.of(split)
        if split != "train":
            data = without_pseudo(data)
        if self._view is None:
            table = self._files.label_table(data, self.category_map)
            merged = self.class_agnostic
            store = AnnotationStore.from_coco(data, table)
            self._note_empty_masks(annotations, split, store)
        else:
            whole = CategoryMap.from_coco(data["categories"])
            every = AnnotationStore.from_coco(data, whole.labels())
            store = self._view.known_part(every, whole)
            table, merged = self._view.labels(), self._view.class_agnostic
            self._note_empty_masks(annotations, split, store if split == "train" else every)
            if split == "train":
                own = {} if self._view.pseudo is None else {whole.label(self._view.pseudo): 0}
                made = len(every.relabelled(own).ids)
                self._note(self._view.note(store, len(whole), str(annotations), made))
            else:
                self._wholes[split] = every, whole
        names = [store.name(index) for index in range(len(store))]
        raw = all_raw(annotations, names, self.in_channels)
        linear = raw and self.low_light is not None and self.low_light.input == "raw3"
        if linear and split == "train" and self.mosaic is not None:
            raise ValueError(
                f"{annotations} has RAW files, which a network of raw3 gets with all bits, but "
                "data.mosaic composes images of 8 bits; set data.mosaic: null or input: srgb"
            )
        of_images = None
        if not merged:
            of_images = ImageLabelStore.from_coco(data["images"], table, len(self.category_map))
        self._sources[split] = CocoSource(store, images, self.image_options, raw, linear, of_images)
        return self._sources[split]

    def left_alone(self, split: str) -> bool:
        """Return whether the images of a split are what a camera has taken in the dark."""
        return self.already_dark or self.source(cast("Split", split)).raw

    def check(self, thorough: bool = False) -> list[Problem]:
        """Read the files of every split again and return all their problems.

        Args:
            thorough: also decode every image, regardless of their number.
        """
        depth: Depth | None = "pixels" if thorough else None
        found = self._files.examine_all(self._files.splits(), depth)
        return self._files.judge(found)[0]

    def summary(self) -> dict[str, dict[str, int]]:
        """Return the counts of each split, and how much of it ``skip`` leaves out."""
        self._files.examine_all(s for s in self._files.splits() if s not in self._files.counts)
        return {split: dict(counts) for split, counts in self._files.counts.items()}

    def category_arguments(self) -> dict[str, Any]:
        """Return which categories were kept, known and merged, for a checkpoint."""
        return super().category_arguments() | {"categories": self._categories}

    def source(self, split: Split) -> CocoSource:
        """Return the images of a split; ``predict`` stands for ``test``.

        Raises:
            ValueError: the split does not exist or its files are wrong.
        """
        name = self._name_of(split)
        if name not in self._sources:
            found = self._files.examine_all([name])
            self._raise_or_count(found)
            for part, findings in found.items():
                self._add_source(part, findings.data)
        return self._sources[name]

    def _name_of(self, split: Split) -> str:
        """Return the split whose files are used."""
        name = "test" if split == "predict" else split
        if name == "test" and self._files.paths["test"] is None:
            if not self._fallback_reported:
                rank_zero_info("there is no test split: the validation split is used")
            self._fallback_reported = True
            name = "val"
        return name

    def setup(self, stage: str) -> None:
        """Also record which training images are held out as ``splits.csv`` in the run's folder."""
        super().setup(stage)
        if stage == "fit" and self._files.val_fraction is not None:
            train, val = self.source("train").store, self.source("val").store
            parts = {"train": train.image_records(), "val": val.image_records()}
            record_division(self.trainer, parts)

    def ground_truth(self, split: Split) -> dict[str, Any]:
        """Return the annotations of a split as a COCO dictionary, including degenerate ones.

        With ``known`` it has the objects of all categories, but for training only the known ones.
        """
        self.source(split)  # reads the files
        if self._name_of(split) not in self._wholes:
            return self.labelled_truth(split)
        store, whole = self._wholes[self._name_of(split)]
        return store.to_coco(whole)

    def labelled_truth(self, split: Split) -> dict[str, Any]:
        """Return the annotations of the classes of the model as a COCO dictionary."""
        return self.source(split).store.to_coco(self.category_map)

    def object_counts(self, split: Split) -> ObjectCounts | None:
        """Return how many objects the images and the classes of a split have."""
        missing = split not in self._sources and self._files.paths.get(split) is None
        return None if missing else self.source(split).object_counts(self.num_classes)

    def image_records(self, split: Split) -> list[dict[str, Any]]:
        """Return the records of the images with the absolute ``path`` of each file."""
        source = self.source(split)
        records = source.store.image_records()
        folder = source.folder.resolve()
        return [r | {"path": str(folder / r["file_name"])} for r in records]
