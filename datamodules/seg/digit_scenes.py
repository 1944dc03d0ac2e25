"""Images with several handwritten digits, drawn on demand; no download is needed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from datamodules.digits import DigitSplit, source_digits
from datamodules.sampling.keys import keyed_generator
from datamodules.seg.base import SegDataModule, Split
from datamodules.seg.dataset import AnnotatedImage
from datamodules.seg.scene_drawing import Scene, SceneStyle, Texture, draw_scene
from datamodules.transforms.label_maps import LabelMaps
from formats.coco.store import AnnotationStore
from structures import CategoryMap, RLEMasks

_SCENE_PURPOSE = 2
_MIN_VISIBLE = 30  # pixels; digits with fewer visible pixels are not annotated
_SPLITS: tuple[DigitSplit, ...] = ("train", "val", "test")


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
    """

    split: DigitSplit
    count: int
    seed: int
    style: SceneStyle
    drawn: tuple[int, ...]
    labelled: tuple[int, ...]

    def __len__(self) -> int:
        return self.count

    def scene(self, index: int) -> Scene:
        """Draw one scene.

        Raises:
            IndexError: the index is out of range.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"scene {index} does not exist; there are {self.count}")
        rng = keyed_generator(_SCENE_PURPOSE, _SPLITS.index(self.split), self.seed, index)
        rows = np.flatnonzero(np.isin(source_digits(self.split).labels, self.drawn))
        return draw_scene(rng, self.split, self.style, rows)

    def read(self, index: int) -> AnnotatedImage:
        """Return a scene with its annotated digits in drawing order."""
        scene = self.scene(index)
        visible = np.bincount(scene.owner.ravel(), minlength=scene.labels.size + 1)[1:]
        known = np.isin(scene.labels, self.labelled)
        kept = np.flatnonzero(known & (visible >= _MIN_VISIBLE))
        maps = LabelMaps(scene.owner[None], np.zeros(kept.size, dtype=np.int64), kept + 1)
        labels = np.array([self.labelled.index(d) for d in scene.labels[kept]], dtype=np.int64)
        name = self.file_name(index)
        return AnnotatedImage(
            scene.image, maps, labels, np.zeros(kept.size, dtype=bool), index + 1, name
        )

    def file_name(self, index: int) -> str:
        """Return the file name of a written scene."""
        return f"{self.split}_{index:05d}.png"

    def sizes(self) -> npt.NDArray[np.int64]:
        """Return the (n, 2) heights and widths of the scenes."""
        return np.full((self.count, 2), self.style.size, dtype=np.int64)

    def counts(self) -> npt.NDArray[np.int64]:
        """Return the (n,) number of annotated digits in each scene. Draws every scene."""
        return np.array([len(self.read(i).labels) for i in range(self.count)], dtype=np.int64)

    def objects(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return (M,) scenes and (M,) labels of the annotated digits. Draws every scene."""
        labels = [self.read(index).labels for index in range(self.count)]
        images = np.repeat(np.arange(self.count, dtype=np.int64), list(map(len, labels)))
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
        known_classes: digits that are annotated, in every split; None for all that appear.
        unknown: whether the other digits appear unlabelled or not at all.
        dark: low-light versions of the same scenes, with the corresponding sensor noise.
        exposure: range of the share of light that remains in dark scenes.
        scene_seed: seed of the scenes; independent of ``seed``, so that training with another seed
            uses the same data.
        **shared: the arguments of ``SegDataModule``.

    Raises:
        ValueError: a number is out of range, or a known class does not appear.
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
        known_classes: Sequence[int] | None = None,
        unknown: Literal["unlabelled", "absent"] = "unlabelled",
        dark: bool = False,
        exposure: tuple[float, float] = (0.02, 0.1),
        scene_seed: int = 0,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        appearing = _digits(classes, "classes")
        known = appearing if known_classes is None else _digits(known_classes, "known_classes")
        if not set(known) <= set(appearing):
            raise ValueError(
                f"known_classes {list(known)} are not all among classes {list(appearing)}"
            )
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
        drawn = known if unknown == "absent" else appearing
        counts = (train_scenes, val_scenes, test_scenes)
        self._sources = {
            split: DigitSceneSource(split, count, scene_seed, style, drawn, known)
            for split, count in zip(_SPLITS, counts, strict=True)
        }
        self._stores: dict[str, AnnotationStore] = {}
        self.category_map = CategoryMap(
            tuple(digit + 1 for digit in known), tuple(str(digit) for digit in known)
        )

    def source(self, split: Split) -> DigitSceneSource:
        """Return the scenes of a split; ``predict`` stands for ``test``."""
        return self._sources["test" if split == "predict" else split]

    def ground_truth(self, split: Split) -> dict[str, Any]:
        """Return the ground truth of a split; the first call draws every scene."""
        return self._store(split).to_coco(self.category_map)

    def _store(self, split: Split) -> AnnotationStore:
        """Return the packed annotations of a split; they are drawn only once."""
        source = self.source(split)
        if source.split not in self._stores:
            data = {"images": self.image_records(split), "annotations": self._annotations(source)}
            self._stores[source.split] = AnnotationStore.from_coco(data, self.category_map.labels())
        return self._stores[source.split]

    def _annotations(self, source: DigitSceneSource) -> list[dict[str, Any]]:
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
                        "category_id": self.category_map.ids[label],
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
        annotations.write_text(json.dumps(self.ground_truth(split)))
        return images, annotations
