"""Datamodule of LIS, real scenes in normal light and in the dark.

Chen et al., "Instance segmentation in the dark", IJCV 2023. Scene k has a normal image with an odd
number n and a dark one with the number n + 1, each as the JPEG image of the camera and as RAW data
of three channels in a PNG file:

    RGB-normal, RGB-dark, RAW-normal, RAW-dark      each with JPEGImages/<number>.JPG or .png
    annotations/lis_coco_{JPG,png}_{train,test,traintest}[+1].json     +1: of the dark images

There are no files for JPG in normal light; those of png serve, since only the suffix differs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from datamodules.seg.coco import CocoDataModule, CocoSource
from datamodules.seg.dataset import PairDataset, SegDataset
from datamodules.seg.mosaic import MosaicDataset
from formats.coco.document import load_coco
from formats.images import read_header
from structures import DataProblems, Problem

# Names of LIS, which are those of Pascal VOC, and of COCO
NAMES = {
    "bicycle": "bicycle",
    "chair": "chair",
    "diningtable": "dining table",
    "bottle": "bottle",
    "motorbike": "motorcycle",
    "car": "car",
    "tvmonitor": "tv",
    "bus": "bus",
}
_SUFFIXES = {"raw": ".png", "rgb": ".JPG"}


class NormalLight(CocoSource):
    """The partners n of dark images n + 1, with the annotations of these."""

    def file(self, index: int) -> Path:
        """Return the path of an image in normal light."""
        name = Path(self.store.name(index))
        return self.folder / f"{int(name.stem) - 1}{name.suffix}"


class LISDataModule(CocoDataModule):
    """The images of one kind of light and of one source.

    The classes have the names of COCO, so that models that were trained on COCO can be scored:
    categories are matched by name through `NAMES`, whatever their ids and order. Images are left as
    they are. With ``low_light.clean`` every dark training image comes with its partner in normal
    light as the clean view, with the same augmentation (A497).

    Args:
        root: folder of the data set, with the four folders and ``annotations``.
        light: ``dark`` or ``normal``.
        source: ``raw`` or ``rgb``.
        test: annotations to validate and test on: those of ``test``, or the whole set
            (``traintest``), which the authors recommend for models trained on other data.
        test_annotations: a file to test on, with a checkpoint; instead of ``root``.
        test_images: its folder of images.
        category_map: the map of a checkpoint.
        **shared: the arguments of ``CocoDataModule``.

    Raises:
        ValueError: ``root`` lacks a folder, or ``low_light.input`` is raw4: these images have three
            channels.
        UnusableData: an image lacks its partner of the other light, or for pairs of training
            images this has another size, a category is missing or unknown, or see
            `CocoDataModule`.
    """

    already_dark = True
    asked_last = False

    def __init__(
        self,
        root: Path | str | None = None,
        *,
        light: Literal["dark", "normal"] = "dark",
        source: Literal["raw", "rgb"] = "raw",
        test: Literal["test", "traintest"] = "test",
        test_annotations: Path | str | None = None,
        test_images: Path | str | None = None,
        category_map: Mapping[str, Sequence[Any]] | None = None,
        **shared: Any,
    ) -> None:
        self._light, self._source = light, source
        self._suffix: str | None = None if root is None else _SUFFIXES[source]
        self._partners: Path | None = None
        self._ids = {name: number for number, name in enumerate(NAMES.values())}
        if category_map is not None:
            names = [NAMES.get(str(name), str(name)) for name in category_map["names"]]
            self._ids = dict(zip(names, category_map["ids"], strict=True))
        if root is not None:
            files: dict[str, Path | str | None] = {**self._files_below(Path(root), test)}
        elif test_annotations is None:
            raise ValueError("data.root is missing: it names the folder LIS")
        else:
            files = {"test_annotations": test_annotations, "test_images": test_images}
        self._training = files.get("train_annotations")
        super().__init__(
            None,
            train_images=files.get("train_images"),
            train_annotations=files.get("train_annotations"),
            val_images=files.get("val_images"),
            val_annotations=files.get("val_annotations"),
            test_images=files["test_images"],
            test_annotations=files["test_annotations"],
            category_map=category_map,
            **shared,
        )
        if self.in_channels != 3:
            raise ValueError(
                "data.low_light.input is raw4, but the images of LIS have three channels; use a "
                "model of raw3 or srgb"
            )

    def _files_below(self, root: Path, test: str) -> dict[str, Path]:
        """Return the paths of the splits."""
        other = "normal" if self._light == "dark" else "dark"
        folders = {
            light: root / f"{self._source.upper()}-{light}" / "JPEGImages"
            for light in (self._light, other)
        }
        needed = [*folders.values(), root / "annotations"]
        missing = [str(folder.relative_to(root)) for folder in needed if not folder.is_dir()]
        if missing:
            raise ValueError(
                f"data.root {root} lacks {', '.join(missing)}; give the folder LIS with "
                "RGB-normal, RGB-dark, RAW-normal, RAW-dark and annotations"
            )
        self._partners = folders[other]
        kind = "JPG" if (self._source, self._light) == ("rgb", "dark") else "png"
        end = "+1" if self._light == "dark" else ""
        paths = {}
        for split, part in (("train", "train"), ("val", test), ("test", test)):
            name = f"lis_coco_{kind}_{part}{end}.json"
            paths[f"{split}_annotations"] = root / "annotations" / name
            paths[f"{split}_images"] = folders[self._light]
        return paths

    @classmethod
    def section_for(
        cls, path: Path, record: Mapping[str, Any], folder: Path | None = None
    ) -> dict[str, Any] | None:
        """Return the section for an annotation file of LIS as the test split; see the base class.

        Its images are dark already, or in normal light as they are.
        """
        section = super().section_for(path, record, folder)
        if section is None or folder is None or not path.name.startswith("lis_coco_"):
            return None
        below = folder / "JPEGImages"
        section["init_args"]["test_images"] = str(below if below.is_dir() else folder)
        return section

    def set_ground_truth(self, truth: Mapping[str, Any]) -> None:
        """Set the content of the test annotations; see the base class."""
        super().set_ground_truth(self._in_our_terms(self._files.of("test")[1], truth))

    def _load(self, path: Path) -> dict[str, Any]:
        content = self._in_our_terms(path, load_coco(path))
        if self._partners is not None:
            self._check_pairs(path, content["images"], self._partners)
        return content

    @property
    def gives_pairs(self) -> bool:
        """Whether training batches have the images in normal light as a clean view."""
        wanted = self.low_light is not None and self.low_light.clean
        return wanted and self._light == "dark" and self._partners is not None

    def shows_dark(self, split: str) -> bool:
        """Return whether people see little on the images."""
        del split
        return self._light == "dark"

    def train_dataset(self) -> SegDataset | MosaicDataset | PairDataset:
        """Return the training images, for pairs with their partners in normal light."""
        dark = super().train_dataset()
        if not self.gives_pairs or self._partners is None or isinstance(dark, PairDataset):
            return dark
        normal = NormalLight(self.source("train").store, self._partners, self.image_options)
        return PairDataset(dark, dataclasses.replace(dark, source=normal))

    def _in_our_terms(self, path: Path, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return annotations with the names of files without folders and our categories."""
        table = self._categories_of(path, data["categories"])
        images = [dict(record) for record in data["images"]]
        for record in images:
            if isinstance(record.get("file_name"), str):
                name = Path(record["file_name"])
                record["file_name"] = name.stem + (self._suffix or name.suffix)
        annotations = [
            {**row, "category_id": table[row["category_id"]]}
            if row.get("category_id") in table
            else dict(row)
            for row in data["annotations"]
        ]
        names = {number: name for name, number in self._ids.items()}
        categories = [{"id": number, "name": names[number]} for number in sorted(table.values())]
        content = {"images": images, "annotations": annotations, "categories": categories}
        return {**data, **content}

    def _categories_of(self, path: Path, categories: Sequence[Any]) -> dict[int, int]:
        """Return the category id of the file -> ours, one to one.

        Raises:
            DataProblems: a category is missing, unknown or there twice.
        """
        found: dict[str, int] = {}
        problems = []
        for record in categories:
            name = str(record.get("name") if isinstance(record, Mapping) else record)
            ours = NAMES.get(name, name)
            if ours in found or ours not in NAMES.values():
                reason = f"category {name!r} is {'there twice' if ours in found else 'not of LIS'}"
                problems.append(Problem(path, None, None, reason, f"LIS has {[*NAMES]}"))
            else:
                found[ours] = record["id"]
        missing = [name for name in NAMES.values() if name not in found]
        if missing and not problems:
            reason = f"lacks the categories {missing}"
            problems.append(Problem(path, None, None, reason, "use the files of the data set"))
        if problems:
            raise DataProblems(problems)
        return {found[name]: number for name, number in self._ids.items() if name in found}

    def _check_pairs(self, path: Path, images: Sequence[Any], folder: Path) -> None:
        """Check that every image has a partner of the other light.

        Raises:
            DataProblems: an image has none, or its name is no number.
        """
        there, step = {p.stem for p in folder.iterdir()}, -1 if self._light == "dark" else 1
        measured = self.gives_pairs and path == self._training
        problems = []
        for record in images:
            stem = Path(str(record.get("file_name"))).stem
            partner = str(int(stem) + step) if stem.isdecimal() else None
            if partner in there:
                problems += self._other_size(path, record, folder, partner) if measured else []
                continue
            reason = f"its partner {folder / f'{partner}{self._suffix}'} is missing"
            if partner is None:
                reason = f"file_name {stem!r} is not a number, so it has no partner"
            remedy = "copy both images of a scene, n in normal light and n + 1 in the dark"
            problems.append(Problem(path, record.get("id"), None, reason, remedy))
        if problems:
            raise DataProblems(problems)

    def _other_size(
        self, path: Path, record: Mapping[str, Any], folder: Path, partner: str
    ) -> list[Problem]:
        """Return a problem if a partner cannot be read or has another size than its image."""
        file = folder / f"{partner}{self._suffix}"
        stated = record.get("height"), record.get("width")
        try:
            size = read_header(file, self.image_options).size(self.image_options.exif, stated)
        except ValueError as error:
            reason, _, remedy = str(error).rpartition("; ")
            return [Problem(path, record.get("id"), None, f"its partner: {reason}", remedy)]
        if size == stated:
            return []
        reason = (
            f"its partner {file} is {size[0]} px high and {size[1]} px wide, but "
            f"{self._files.of('train')[0] / record['file_name']} is {stated[0]} and {stated[1]}"
        )
        return [Problem(path, record.get("id"), None, reason, "resize both to the same size")]
