"""Files of a COCO data set; each split is checked by itself and against the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.seg.held_out import divide_images
from formats.coco.document import LISTS, CocoFindings, load_coco
from formats.coco.image_checks import category_problems, examine_coco
from formats.images import Depth, ImageOptions
from structures import CategoryMap, DataProblems, Problem

# Opening a file costs 0.1 ms on a disk and far more over a network: in larger sets, sizes are
# compared with the annotations only when an image is read  # A52
HEADER_LIMIT = 5000

_DIVIDED = ("pictures", "annotations")  # counts that differ between the parts of a file


@dataclass
class CocoFiles:
    """The files of the splits and the findings of their checks.

    Attributes:
        paths: split -> folder of images and annotation file, None if the split is missing.
        categories: names of the categories to keep, None for all.
        class_agnostic: whether all categories are merged into one class.
        category_map: fixed labels (of a checkpoint); None to take them from the training file.
        depth: how much of the image files of small sets is read.
        mend: whether annotations are repaired where possible.
        looked: split -> description of the files that were looked for.
        options: how image files are read.
        val_fraction: share of the training images that is the validation split; None for files.
        seed: seed of that division.
        load: reads an annotation file.
        counts: split -> counts of its annotation file and of what is left out, including all
            annotations of faulty images, and of the annotations repaired if they may be.
    """

    paths: Mapping[str, tuple[Path, Path] | None]
    categories: Sequence[str] | None = None
    class_agnostic: bool = False
    category_map: CategoryMap | None = None
    depth: Depth = "header"
    mend: bool = False
    looked: Mapping[str, str] = field(default_factory=dict)
    options: ImageOptions = field(default_factory=ImageOptions)
    val_fraction: float | None = None
    seed: int = 0
    load: Callable[[Path], dict[str, Any]] = load_coco
    counts: dict[str, dict[str, int]] = field(default_factory=dict)

    def splits(self) -> list[str]:
        """Return the existing splits; ``train`` is included unless the labels are fixed."""
        needed = () if self.category_map is not None else ("train",)
        return [s for s, paths in self.paths.items() if paths is not None or s in needed]

    def of(self, split: str) -> tuple[Path, Path]:
        """Return the folder of images and the annotation file of a split.

        Raises:
            ValueError: the split does not exist.
        """
        divided = split == "val" and self.val_fraction is not None
        paths = self.paths["train" if divided else split]
        if paths is None:
            looked = f"; looked for {self.looked[split]}" if split in self.looked else ""
            share = ", or hold out training images by data.val_fraction 0.2"
            raise ValueError(
                f"there is no {split} split{looked}; add its files, or name them by "
                f"data.{split}_annotations and data.{split}_images{share if split == 'val' else ''}"
            )
        return paths

    def examine_all(
        self, splits: Iterable[str], depth: Depth | None = None
    ) -> dict[str, CocoFindings]:
        """Read and check the files of some splits; where one is divided, of both of its parts.

        Raises:
            ValueError: no image with an object would be held out.
        """
        wanted = list(splits)
        if self.val_fraction is None or not {"train", "val"} & {*wanted}:
            return {split: self.examine(split, depth) for split in wanted}
        names = ["train", *(split for split in wanted if split not in ("train", "val"))]
        found = {split: self.examine(split, depth) for split in names}
        whole = found["train"]
        if whole.fatal or not whole.data["images"]:
            return found
        kept, held = divide_images(whole.data, self.val_fraction, self.seed)
        self.counts["val"] = _counts(held)
        rest = {n: self.counts["train"][n] - self.counts["val"][n] for n in _DIVIDED}
        self.counts["train"] |= rest
        return found | {
            "train": whole._replace(data=kept),
            "val": CocoFindings([], False, held),
        }

    def examine(self, split: str, depth: Depth | None = None) -> CocoFindings:
        """Read and check the files of a split.

        Args:
            split: the split.
            depth: how much of the image files is read; None for ``self.depth`` up to 5 000 images,
                and only the names of the files above that.
        """
        images, annotations = self.of(split)
        data: dict[str, Any] = {key: [] for key in LISTS}
        try:
            data = self.load(annotations)
        except DataProblems as error:
            findings = CocoFindings(list(error.problems), True, data)
        else:
            usual = self.depth if len(data["images"]) <= HEADER_LIMIT else "name"
            options = self.options
            findings = examine_coco(
                annotations, data, images, depth or usual, options, mend=self.mend
            )
        self.counts[split] = counts = _counts(data)
        kept = _counts(findings.data)
        counts |= {f"left_out_{name}": counts[name] - kept[name] for name in _DIVIDED}
        if self.mend:
            repaired = {p.annotation for p in findings.problems if p.repaired}
            self.counts[split]["repaired_annotations"] = len(repaired)
        return findings

    def judge(self, found: Mapping[str, CocoFindings]) -> tuple[list[Problem], bool]:
        """Return all problems of some splits, and whether one of them cannot be skipped.

        In addition to the findings, these are contradictions between the files and problems that
        make a file useless although each record is valid.
        """
        problems = [problem for findings in found.values() for problem in findings.problems]
        beyond = []
        for split, findings in found.items():
            file, data = self.of(split)[1], findings.data
            if findings.problems and not findings.fatal and not data["images"]:
                beyond.append(Problem(file, None, None, "no image is left", "fix some of them"))
            if data["categories"]:
                beyond += self._category_problems(split, found)
            if data["images"] and not findings.fatal:
                beyond += self._object_problems(split, findings)
        return problems + beyond, bool(beyond) or any(f.fatal for f in found.values())

    def label_table(self, data: Mapping[str, Any], labels: CategoryMap) -> dict[int, int]:
        """Return category id -> label for a file accepted by ``judge``; others are left out."""
        kept = [c["id"] for c in data["categories"] if self._is_kept(c)]
        if self.class_agnostic:
            return dict.fromkeys(kept, 0)
        table = labels.labels()
        return {i: table[i] for i in kept if i in table}

    def _is_kept(self, category: Mapping[str, Any]) -> bool:
        return self.categories is None or str(category["name"]) in self.categories

    def _category_problems(self, split: str, found: Mapping[str, CocoFindings]) -> list[Problem]:
        file, categories = self.of(split)[1], found[split].data["categories"]
        if self.category_map is not None:
            return self._problems_with_map(file, categories, self.category_map)
        if split != "train":
            declared = found["train"].data["categories"]
            names = {c["id"]: str(c["name"]) for c in declared}
            source = str(self.of("train")[1])
            return category_problems(file, categories, names, source) if names else []
        known = [str(c["name"]) for c in categories]
        missing = [name for name in self.categories or [] if name not in known]
        reason = f"categories {missing} are not in the file"
        return [Problem(file, None, None, reason, f"it has {known[:20]}")] if missing else []

    def _problems_with_map(
        self, file: Path, categories: Sequence[Mapping[str, Any]], labels: CategoryMap
    ) -> list[Problem]:
        if self.class_agnostic:
            return []
        names = dict(zip(labels.ids, labels.names, strict=True))
        known = [c for c in categories if self._is_kept(c) and c["id"] in names]
        if known:
            return category_problems(file, known, names, "the category map")
        has = [str(c["name"]) for c in categories][:10]
        reason, remedy = f"no category is among {list(labels.names)}", f"it has {has}"
        return [Problem(file, None, None, reason, remedy)]

    def _object_problems(self, split: str, findings: CocoFindings) -> list[Problem]:
        """Return a problem if a split has no object, so that nothing is learnt or scored.

        A test split that never had an object can be predicted.  # A313
        """
        file, data = self.of(split)[1], findings.data
        kept = {c["id"] for c in data["categories"] if self._is_kept(c)}
        own = [a for a in data["annotations"] if a["category_id"] in kept]
        if any(not a.get("iscrowd") for a in own):
            return []
        use = "learnt" if split == "train" else "scored"
        if own:
            which = "that are valid " if findings.problems else ""
            reason = f"all {len(own)} annotations {which}are crowds (iscrowd 1)"
            remedy = "export single objects with iscrowd 0"
        elif self.counts.get(split, {}).get("left_out_annotations"):
            reason, remedy = "no object is left", "fix some of the annotations"
        elif split == "test":
            return []
        else:
            reason, remedy = f"no image of {split} has an object", "annotate some of the images"
        return [Problem(file, None, None, f"{reason}: nothing can be {use}", remedy)]


def _counts(data: Mapping[str, Any]) -> dict[str, int]:
    count, objects, categories = (len(data[key]) for key in LISTS)
    counts = {"pictures": count, "annotations": objects, "categories": categories}
    return counts | {"left_out_pictures": 0, "left_out_annotations": 0}
