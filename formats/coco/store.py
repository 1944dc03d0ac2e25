"""Storage of the annotations of a split in a few flat arrays instead of Python objects.

Worker processes share memory with their parent until one of them writes. Reading a Python object
changes its reference count, so dictionaries would be copied into every worker; arrays are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from structures import CategoryMap, ImageId, RLEMasks
from structures.rle import from_bytes, to_bytes

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PackedBytes:
    """A list of byte strings in one buffer, with the offset of each string."""

    buffer: npt.NDArray[np.uint8]
    offsets: Ints

    @classmethod
    def pack(cls, parts: Iterable[bytes]) -> PackedBytes:
        """Copy the strings into one buffer."""
        listed = list(parts)
        offsets = np.zeros(len(listed) + 1, dtype=np.int64)
        np.cumsum([len(part) for part in listed], out=offsets[1:])
        return cls(np.frombuffer(b"".join(listed), dtype=np.uint8), offsets)

    def __len__(self) -> int:
        return int(self.offsets.size - 1)

    def __getitem__(self, position: int) -> bytes:
        start, stop = self.offsets[position : position + 2]
        return self.buffer[start:stop].tobytes()


def encode_segmentation(segmentation: Any, height: int, width: int) -> bytes:
    """Return the COCO run-length text of a segmentation.

    Polygons are rasterised by pycocotools, so that the masks equal the masks of the COCO tools.

    Args:
        segmentation: list of polygons [x1, y1, x2, y2, ...], or a record with ``counts``.
        height: height of the image in pixels.
        width: width of the image in pixels.
    """
    from pycocotools import mask as coco_mask

    if isinstance(segmentation, list):
        parts = coco_mask.frPyObjects(segmentation, height, width)
        return bytes(coco_mask.merge(parts)["counts"])
    counts = segmentation["counts"]
    if isinstance(counts, list):
        return to_bytes(np.array(counts, dtype=np.int64))
    return counts.encode() if isinstance(counts, str) else bytes(counts)


def _image_id(value: Any) -> ImageId:
    return value if isinstance(value, str) else int(value)


class ImageAnnotations(NamedTuple):
    """Annotations of one image: masks, labels (K,) int64 and crowd flags (K,) bool."""

    masks: RLEMasks
    labels: Ints
    crowd: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class AnnotationStore:
    """P images sorted by id, with M annotations sorted by image and annotation id.

    Attributes:
        image_ids: (P,) int64, or texts.
        sizes: (P, 2), height and width.
        names: file names, UTF-8.
        offsets: (P + 1,); image p owns annotations ``offsets[p]:offsets[p + 1]``.
        ids: (M,) annotation ids.
        labels: (M,) 0-based classes.
        crowd: (M,) bool.
        pixels: (M,) number of foreground pixels of the masks.
        areas: (M,) areas in square pixels from the file, or ``pixels`` if the file has none.
        boxes: (M, 4) x, y, width, height from the file, or of the masks if the file has none.
        rles: COCO run-length texts of the masks.
    """

    image_ids: npt.NDArray[Any]
    sizes: Ints
    names: PackedBytes
    offsets: Ints
    ids: Ints
    labels: Ints
    crowd: npt.NDArray[np.bool_]
    pixels: Ints
    areas: Floats
    boxes: Floats
    rles: PackedBytes

    @classmethod
    def from_coco(cls, data: Mapping[str, Any], labels: Mapping[int, int]) -> AnnotationStore:
        """Pack a COCO dictionary that passed ``formats.coco.document.check_coco``.

        Args:
            data: dictionary with ``images`` and ``annotations``.
            labels: category id -> label; annotations of other categories are left out.
        """
        from pycocotools import mask as coco_mask

        images = sorted(data["images"], key=lambda image: _image_id(image["id"]))
        position = {_image_id(image["id"]): p for p, image in enumerate(images)}
        sizes = np.array([(i["height"], i["width"]) for i in images], dtype=np.int64)
        kept = [a for a in data["annotations"] if int(a["category_id"]) in labels]
        kept.sort(key=lambda a: (position[_image_id(a["image_id"])], int(a["id"])))
        owners = np.array([position[_image_id(a["image_id"])] for a in kept], dtype=np.int64)
        records: list[dict[str, Any]] = []
        for annotation, owner in zip(kept, owners, strict=True):
            height, width = sizes[owner].tolist()
            counts = encode_segmentation(annotation["segmentation"], height, width)
            records.append({"size": [height, width], "counts": counts})
        # one by one: with numpy 2.4, pycocotools 2.0.11 fails on lists of more than 255 masks
        pixels = np.array([coco_mask.area(record) for record in records], dtype=np.int64)
        areas = [a.get("area", own) for a, own in zip(kept, pixels.tolist(), strict=True)]
        boxes = [
            a["bbox"] if "bbox" in a else coco_mask.toBbox(record).tolist()
            for a, record in zip(kept, records, strict=True)
        ]
        counts_per_image = np.bincount(owners, minlength=len(images))
        return cls(
            image_ids=np.array(list(position), dtype=None if position else np.int64),
            sizes=sizes.reshape(-1, 2),
            names=PackedBytes.pack(str(i["file_name"]).encode() for i in images),
            offsets=np.concatenate([[0], np.cumsum(counts_per_image)]).astype(np.int64),
            ids=np.array([a["id"] for a in kept], dtype=np.int64),
            labels=np.array([labels[int(a["category_id"])] for a in kept], dtype=np.int64),
            crowd=np.array([bool(a.get("iscrowd", 0)) for a in kept], dtype=bool),
            pixels=pixels,
            areas=np.array(areas, dtype=np.float64),
            boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4),
            rles=PackedBytes.pack(r["counts"] for r in records),
        )

    def relabelled(self, labels: Mapping[int, int]) -> AnnotationStore:
        """Return the annotations of some labels under other labels; all images stay.

        Args:
            labels: label here -> label there; annotations of other labels are left out.
        """
        kept = np.flatnonzero(np.isin(self.labels, list(labels)))
        owners = np.repeat(np.arange(len(self)), np.diff(self.offsets))[kept]
        counts = np.bincount(owners, minlength=len(self))
        table = {k: getattr(self, k)[kept] for k in ("ids", "crowd", "pixels", "areas", "boxes")}
        return replace(
            self,
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            labels=np.array([labels[k] for k in self.labels[kept].tolist()], dtype=np.int64),
            rles=PackedBytes.pack(self.rles[k] for k in kept.tolist()),
            **table,
        )

    def __len__(self) -> int:
        return int(self.image_ids.size)

    def name(self, index: int) -> str:
        """Return the file name of an image."""
        return self.names[index].decode()

    def size(self, index: int) -> tuple[int, int]:
        """Return (height, width) of an image."""
        height, width = self.sizes[index].tolist()
        return height, width

    def image(self, index: int) -> ImageAnnotations:
        """Return the annotations of an image, degenerate ones with empty masks included."""
        start, stop = self.offsets[index : index + 2].tolist()
        runs = (from_bytes(self.rles[k]) for k in range(start, stop))
        masks = RLEMasks.from_runs(runs, self.size(index))
        return ImageAnnotations(masks, self.labels[start:stop], self.crowd[start:stop])

    def counts(self) -> Ints:
        """Return (P,), the number of annotations per image that are not crowds."""
        owners = np.repeat(np.arange(len(self)), np.diff(self.offsets))
        return np.bincount(owners[~self.crowd], minlength=len(self)).astype(np.int64)

    def objects(self) -> tuple[Ints, Ints]:
        """Return images and labels, (K,) each, of annotations with a pixel, except crowds."""
        owners = np.repeat(np.arange(len(self)), np.diff(self.offsets))
        kept = ~self.crowd & (self.pixels > 0)
        return owners[kept].astype(np.int64), self.labels[kept]

    def count_degenerate(self) -> int:
        """Return the number of annotations whose mask has no pixel."""
        return int((self.pixels == 0).sum())

    def image_records(self) -> list[dict[str, Any]]:
        """Return ``id``, ``file_name``, ``height`` and ``width`` of every image."""
        rows = zip(self.image_ids.tolist(), self.sizes.tolist(), strict=True)
        return [
            {"id": i, "file_name": self.name(p), "height": h, "width": w}
            for p, (i, (h, w)) in enumerate(rows)
        ]

    def to_coco(self, category_map: CategoryMap) -> dict[str, Any]:
        """Return a COCO dictionary with the ids of the data set and masks as RLE text."""
        owners = np.repeat(np.arange(len(self)), np.diff(self.offsets))
        columns = zip(
            self.ids.tolist(),
            owners.tolist(),
            self.labels.tolist(),
            self.crowd.tolist(),
            self.areas.tolist(),
            self.boxes.tolist(),
            strict=True,
        )
        annotations = [
            {
                "id": number,
                "image_id": self.image_ids[owner].item(),
                "category_id": category_map.ids[label],
                "iscrowd": int(crowd),
                "area": area,
                "bbox": box,
                "segmentation": {
                    "size": self.sizes[owner].tolist(),
                    "counts": self.rles[k].decode("ascii"),
                },
            }
            for k, (number, owner, label, crowd, area, box) in enumerate(columns)
        ]
        return {
            "images": self.image_records(),
            "annotations": annotations,
            "categories": category_map.to_coco(),
        }
