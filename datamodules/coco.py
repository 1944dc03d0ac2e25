"""Any data set in COCO instances format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pytorch_lightning.utilities import rank_zero_info

from datamodules.annotation_store import AnnotationStore
from datamodules.coco_checks import find_problems, load_coco, raise_problems, size_mismatch
from datamodules.pictures import header_size, read_rgb
from datamodules.seg_dataset import AnnotatedPicture
from datamodules.segmentation import SegDataModule, Split
from datamodules.transforms import LabelMaps
from structures import CategoryMap

# Opening a file costs 0.1 ms on a disk and far more over a network: larger sets are compared with
# the stated size when a picture is read
_HEADER_LIMIT = 5000


@dataclass(frozen=True)
class CocoSource:
    """Pictures of a folder with the annotations of a file."""

    store: AnnotationStore
    folder: Path

    def __len__(self) -> int:
        return len(self.store)

    def read(self, index: int) -> AnnotatedPicture:
        """Read one picture.

        Raises:
            ValueError: the file is missing, broken or of another size than stated.
        """
        store, path = self.store, self.folder / self.store.name(index)
        image_id, stated = int(store.image_ids[index]), store.size(index)
        image = read_rgb(path)
        if image.shape[:2] != stated:
            reason, remedy = size_mismatch(path, stated, *header_size(path))
            raise ValueError(f"picture {image_id}: {reason}; {remedy}")
        masks, labels, crowd = store.picture(index)
        name = f"picture {image_id} ({path})"
        return AnnotatedPicture(image, LabelMaps.from_rle(masks), labels, crowd, image_id, name)

    def sizes(self) -> npt.NDArray[np.int64]:
        """Return (n, 2), height and width of every picture."""
        return self.store.sizes

    def counts(self) -> npt.NDArray[np.int64]:
        """Return (n,), instances that are not crowds of every picture."""
        return self.store.counts()


class CocoDataModule(SegDataModule):
    """COCO instances JSON with a folder of pictures.

    Polygons, run-length masks, crowds, pictures without objects and ids with gaps are all
    ordinary; pictures may be grey or colour with 8 or 16 bits. Labels follow the sorted category
    ids of the training file, which validation and test files may not contradict.

    Args:
        root: folder with ``images/{train,val}`` and ``annotations/instances_{train,val}.json``,
            and the same for ``test`` where there is one. Without a test split the validation split
            is tested and predicted.
        train_images: folder of training pictures, instead of the one under ``root``; so each path.
        train_annotations: file of training annotations.
        val_images: folder of validation pictures.
        val_annotations: file of validation annotations.
        test_images: folder of test pictures.
        test_annotations: file of test annotations.
        categories: names of the categories to keep; None for all. Pictures all stay.
        class_agnostic: every kept category becomes the one class ``object``, whose id is one
            above the file's largest, so that nobody takes it for a category of the data set.
        category_map: the map of a checkpoint ({ids, names}); then no training file is needed,
            files are read when first used, and categories outside the map are left out. The map
            of a class-agnostic checkpoint implies ``class_agnostic``.
        **shared: the arguments of ``SegDataModule``.

    Raises:
        ValueError: a file is missing or wrong (up to 20 problems are listed with file, picture,
            annotation and remedy), a category is unknown, or all training annotations are crowds.
    """

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
        self._paths = {split: _locate(split, base, *paths) for split, paths in named.items()}
        self._class_agnostic = class_agnostic
        self._sources: dict[str, CocoSource] = {}
        self._told_fallback = False
        self._declared: CategoryMap | None = None
        self._categories = None if categories is None else list(categories)
        if category_map is not None:
            self.category_map = CategoryMap.from_dict(category_map)
            return
        data = self._load("train")
        self._declared = CategoryMap.from_coco(data["categories"])
        kept = CategoryMap.from_coco(data["categories"], self._categories)
        merged = CategoryMap.class_agnostic(max(self._declared.ids) + 1)
        self.category_map = merged if class_agnostic else kept
        self._add_source("train", data)
        if self._paths["val"] is not None:
            self.source("val")

    def _files(self, split: str) -> tuple[Path, Path]:
        paths = self._paths[split]
        if paths is None:
            raise ValueError(
                f"there is no {split} split: give root with images/{split} and annotations/"
                f"instances_{split}.json, or {split}_images and {split}_annotations"
            )
        return paths

    def _load(self, split: str) -> dict[str, Any]:
        images, annotations = self._files(split)
        data = load_coco(annotations)
        if not images.is_dir():
            raise ValueError(f"picture folder {images} of {annotations} is missing; check the path")
        headers = len(data["images"]) <= _HEADER_LIMIT
        raise_problems(find_problems(annotations, data, images, read_headers=headers))
        return data

    def _label_table(self, split: str, data: Mapping[str, Any]) -> dict[int, int]:
        """Return category id -> label for a file, having checked that its categories agree."""
        theirs = str(self._files(split)[1])
        declared = CategoryMap.from_coco(data["categories"])
        if self._declared is not None:
            self._declared.check_same(declared, str(self._files("train")[1]), theirs)
        wanted = declared.names if self._categories is None else self._categories
        kept = {i: n for i, n in zip(declared.ids, declared.names, strict=True) if n in wanted}
        if self._class_agnostic:
            return dict.fromkeys(kept, 0)
        known = {i: n for i, n in kept.items() if i in self.category_map.ids}
        if not known:
            raise ValueError(
                f"{theirs}: no category is among {list(self.category_map.names)}; it has "
                f"{list(declared.names)[:10]}"
            )
        common = CategoryMap(tuple(known), tuple(known.values()))
        self.category_map.check_same(common, "the category map", theirs)
        return {i: self.category_map.label(i) for i in known}

    def _add_source(self, split: str, data: Mapping[str, Any]) -> CocoSource:
        store = AnnotationStore.from_coco(data, self._label_table(split, data))
        images, annotations = self._files(split)
        degenerate = store.count_degenerate()
        if degenerate:
            rank_zero_info(
                f"{annotations}: {degenerate} annotations have no pixel; they are left out of "
                "training targets and stay in the ground truth"
            )
        if split == "train" and store.crowd.size and store.crowd.all():
            raise ValueError(
                f"{annotations}: all {store.crowd.size} annotations are crowds (iscrowd 1), so "
                "nothing can be learnt; export single objects with iscrowd 0"
            )
        self._sources[split] = CocoSource(store, images)
        return self._sources[split]

    def category_arguments(self) -> dict[str, Any]:
        """Return which categories were kept and whether they were merged, for a checkpoint."""
        return {"categories": self._categories, "class_agnostic": self._class_agnostic}

    def source(self, split: Split) -> CocoSource:
        """Return the pictures of a split; ``predict`` stands for ``test``.

        Raises:
            ValueError: there is no such split or its files are wrong.
        """
        name = "test" if split == "predict" else split
        if name == "test" and self._paths["test"] is None:
            if not self._told_fallback:
                rank_zero_info("there is no test split: the validation split is used")
            self._told_fallback = True
            name = "val"
        if name not in self._sources:
            return self._add_source(name, self._load(name))
        return self._sources[name]

    def ground_truth(self, split: Split) -> dict[str, Any]:
        """Return the annotations of a split as COCO dictionary, degenerate ones included."""
        return self.source(split).store.to_coco(self.category_map)

    def image_records(self, split: Split) -> list[dict[str, Any]]:
        """Return the records of the pictures with the absolute ``path`` of each file."""
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
