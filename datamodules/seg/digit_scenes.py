"""Images with several handwritten digits, drawn on demand; no download is needed."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from datamodules.digits import DigitSplit, source_digits
from datamodules.sampling.keys import keyed_generator
from datamodules.scene_drawing import (
    Scene,
    SceneStyle,
    Texture,
    draw_outlines,
    draw_scene,
)
from datamodules.seg.base import SegDataModule, Split
from datamodules.seg.dataset import AnnotatedImage
from datamodules.seg.open_world import Known, KnownView, merged_class
from datamodules.transforms.label_maps import LabelMaps
from formats.coco.store import AnnotationStore
from structures import CategoryMap, RLEMasks

_SCENE_PURPOSE = 2
Ints = npt.NDArray[np.int64]

_MIN_VISIBLE = 30  # pixels; digits with fewer visible pixels are not annotated
_SPLITS: tuple[DigitSplit, ...] = ("train", "val", "test")
_WHERE = "the digit scenes (id = digit + 1)"
_EVERY = CategoryMap(tuple(range(1, 11)), tuple(map(str, range(10))))


@dataclass(frozen=True)
class DigitSceneSource:
    """The scenes of one split; scene i depends on (split, seed, i) alone.

    Attributes:
        split: split whose source digits are drawn.
        count: number of scenes.
        seed: seed of the scenes, independent of the seed of training.
        style: sizes, numbers and appearance.
        drawn: digits that appear in the images.
        labelled: digits that are annotated; label l stands for ``labelled[l]``.
        merged: whether all of them have the label 0 instead.
    """

    split: DigitSplit
    count: int
    seed: int
    style: SceneStyle
    drawn: tuple[int, ...]
    labelled: tuple[int, ...]
    merged: bool = False

    def __len__(self) -> int:
        return self.count

    def scene(self, index: int) -> Scene:
        """Draw one scene.

        Raises:
            IndexError: the index is out of range.
        """
        return draw_scene(*self._drawing(index))

    def _drawing(self, index: int) -> tuple[np.random.Generator, DigitSplit, SceneStyle, Ints]:
        if not 0 <= index < self.count:
            raise IndexError(f"scene {index} does not exist; there are {self.count}")
        rng = keyed_generator(_SCENE_PURPOSE, _SPLITS.index(self.split), self.seed, index)
        rows = np.flatnonzero(np.isin(source_digits(self.split).labels, self.drawn))
        return rng, self.split, self.style, rows

    def _annotated(self, owner: npt.NDArray[np.uint8], digits: Ints) -> tuple[Ints, Ints]:
        """Return numbers and labels, (K,) each, of the annotated digits of a scene."""
        visible = np.bincount(owner.ravel(), minlength=digits.size + 1)[1:]
        kept = np.flatnonzero(np.isin(digits, self.labelled) & (visible >= _MIN_VISIBLE))
        labels = [0 if self.merged else self.labelled.index(d) for d in digits[kept]]
        return kept, np.array(labels, dtype=np.int64)

    def read(self, index: int) -> AnnotatedImage:
        """Return a scene with its annotated digits in drawing order."""
        scene = self.scene(index)
        kept, labels = self._annotated(scene.owner, scene.labels)
        maps = LabelMaps(scene.owner[None], np.zeros(kept.size, dtype=np.int64), kept + 1)
        crowd = np.zeros(kept.size, dtype=bool)
        return AnnotatedImage(scene.image, maps, labels, crowd, index + 1, self.file_name(index))

    def labels(self, index: int) -> Ints:
        """Return the (K,) labels of the annotated digits of a scene without painting it."""
        return self._annotated(*draw_outlines(*self._drawing(index)))[1]

    def file_name(self, index: int) -> str:
        """Return the file name of a written scene."""
        return f"{self.split}_{index:05d}.png"

    def sizes(self) -> npt.NDArray[np.int64]:
        """Return the (n, 2) heights and widths of the scenes."""
        return np.full((self.count, 2), self.style.size, dtype=np.int64)

    def counts(self) -> Ints:
        """Return the (n,) number of annotated digits in each scene. Draws every scene once."""
        return np.bincount(self.objects()[0], minlength=self.count).astype(np.int64)

    def objects(self) -> tuple[Ints, Ints]:
        """Return (M,) scenes and (M,) labels of the annotated digits. Draws every scene once."""
        return _objects(self)


@functools.lru_cache(maxsize=4)
def _objects(source: DigitSceneSource) -> tuple[Ints, Ints]:
    labels = [source.labels(index) for index in range(source.count)]
    images = np.repeat(np.arange(source.count, dtype=np.int64), list(map(len, labels)))
    return images, np.concatenate(labels)


def _digits(chosen: Sequence[int] | None, name: str) -> tuple[int, ...]:
    digits = tuple(range(10)) if chosen is None else tuple(sorted(set(chosen)))
    if not digits or not set(digits) <= set(range(10)):
        raise ValueError(f"{name} must be digits from 0 to 9, got {list(digits)}")
    return digits


class DigitScenesDataModule(SegDataModule):
    """Scenes of handwritten digits.

    The defaults are frozen, and all reported results refer to them. Category id = digit + 1 and
    name = digit for every subset of digits. Prediction uses the test scenes.

    Args:
        train_scenes: number of training scenes.
        val_scenes: number of validation scenes.
        test_scenes: number of test scenes.
        size: side of the square images in pixels.
        digits: smallest and largest number of digits per scene.
        digit_size: smallest and largest side in pixels of the square that a digit fills.
        rotation: largest rotation in either direction in degrees.
        textures: kinds of background, of which one is drawn for each scene.
        classes: digits that appear; None for all ten.
        known: the categories that are learnt, by id (digit + 1), as a split or a JSON file; None
            for all that appear. The others are not labelled in training; ground truth for scoring
            keeps them (`datamodules.seg.open_world`).
        class_agnostic: merge all or all known digits into the class ``object`` with the id 11.
        unknown: whether digits that are not known appear in the scenes or not at all.
        dark: low-light versions of the same scenes, with the corresponding sensor noise.
        exposure: range of the share of light that remains in dark scenes.
        scene_seed: seed of the scenes; independent of ``seed``, so that training with another seed
            uses the same data.
        **shared: the arguments of ``SegDataModule``.

    Raises:
        ValueError: a number is out of range, or ``known`` is not some of the digits that appear.
    """

    def __init__(
        self,
        *,
        train_scenes: int = 5000,
        val_scenes: int = 100,
        test_scenes: int = 200,
        size: int = 128,
        digits: tuple[int, int] = (2, 6),
        digit_size: tuple[int, int] = (24, 56),
        rotation: float = 20.0,
        textures: Sequence[Texture] = ("smooth",),
        classes: Sequence[int] | None = None,
        known: Known | None = None,
        class_agnostic: bool = False,
        unknown: Literal["unlabelled", "absent"] = "unlabelled",
        dark: bool = False,
        exposure: tuple[float, float] = (0.02, 0.1),
        scene_seed: int = 0,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        appearing = _digits(classes, "classes")
        self._whole = CategoryMap(tuple(d + 1 for d in appearing), tuple(map(str, appearing)))
        self.class_agnostic = class_agnostic
        self.category_map = merged_class(_EVERY) if class_agnostic else self._whole
        labelled = appearing
        if known is not None:
            categories = self._whole.to_coco()
            self._view = KnownView.of(known, categories, _WHERE, class_agnostic)
            labelled = tuple(i - 1 for i in self._view.split.known)
            self.category_map = merged_class(_EVERY) if class_agnostic else self._view.learnt
        if min(train_scenes, val_scenes, test_scenes) < 1 or scene_seed < 0:
            raise ValueError("numbers of scenes must be positive and scene_seed not negative")
        style = SceneStyle(
            size=size,
            digits=(digits[0], digits[1]),
            digit_size=(digit_size[0], digit_size[1]),
            rotation=rotation,
            textures=tuple(textures),
            dark=dark,
            exposure=(exposure[0], exposure[1]),
        )
        drawn = labelled if unknown == "absent" else appearing
        counts = (train_scenes, val_scenes, test_scenes)
        self._sources = {
            split: DigitSceneSource(
                split, count, scene_seed, style, drawn, labelled, class_agnostic
            )
            for split, count in zip(_SPLITS, counts, strict=True)
        }
        self._stores: dict[DigitSceneSource, AnnotationStore] = {}

    def source(self, split: Split) -> DigitSceneSource:
        """Return the scenes of a split; ``predict`` stands for ``test``."""
        return self._sources["test" if split == "predict" else split]

    def ground_truth(self, split: Split) -> dict[str, Any]:
        """Return the ground truth of a split; the first call draws every scene.

        With ``known`` it has the objects of all digits, but for training only the known ones.
        """
        return self.labelled_truth(split) if split == "train" else self._whole_truth(split)

    def labelled_truth(self, split: Split) -> dict[str, Any]:
        """Return the annotations of the classes of the model; the first call draws every scene."""
        return self._truth(self.source(split), self.category_map)

    def _whole_truth(self, split: Split) -> dict[str, Any]:
        if self._view is None:
            return self.labelled_truth(split)
        digits = tuple(number - 1 for number in self._whole.ids)
        source = dataclasses.replace(self.source(split), labelled=digits, merged=False)
        return self._truth(source, self._whole)

    def _truth(self, source: DigitSceneSource, categories: CategoryMap) -> dict[str, Any]:
        """Return the annotations of scenes, which are drawn only once."""
        if source not in self._stores:
            data = {
                "images": self.image_records(source.split),
                "annotations": self._annotations(source, categories),
            }
            self._stores[source] = AnnotationStore.from_coco(data, categories.labels())
        return self._stores[source].to_coco(categories)

    def _annotations(
        self, source: DigitSceneSource, categories: CategoryMap
    ) -> list[dict[str, Any]]:
        annotations: list[dict[str, Any]] = []
        for index in range(len(source)):
            image = source.read(index)
            masks = RLEMasks.from_dense(image.maps.targets().masks, image.maps.size)
            parts = zip(
                image.labels.tolist(),
                masks.to_coco(),
                masks.areas().tolist(),
                masks.boxes().tolist(),
                strict=True,
            )
            for label, mask, area, (x1, y1, x2, y2) in parts:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image.image_id,
                        "category_id": categories.ids[label],
                        "iscrowd": 0,
                        "area": area,
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "segmentation": mask,
                    }
                )
        return annotations

    def image_records(self, split: Split) -> list[dict[str, Any]]:
        """Return the records of the scenes; ids start at 1."""
        source = self.source(split)
        side = source.style.size
        return [
            {"id": i + 1, "file_name": source.file_name(i), "height": side, "width": side}
            for i in range(len(source))
        ]

    def write_split(self, split: Split, folder: Path | str) -> tuple[Path, Path]:
        """Write a split as lossless PNG images and a COCO file.

        Args:
            split: the split.
            folder: folder for ``images/<split>/`` and ``annotations/instances_<split>.json``.

        Returns:
            The folder of images and the annotation file.
        """
        from PIL import Image

        source = self.source(split)
        images = Path(folder) / "images" / split
        annotations = Path(folder) / "annotations" / f"instances_{split}.json"
        images.mkdir(parents=True, exist_ok=True)
        annotations.parent.mkdir(parents=True, exist_ok=True)
        for index in range(len(source)):
            Image.fromarray(source.scene(index).image).save(images / source.file_name(index))
        annotations.write_text(json.dumps(self._whole_truth(split)))
        return images, annotations
