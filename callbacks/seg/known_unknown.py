"""Gallery of known and novel objects, and of what the predictions find, at every validation."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch

from callbacks.seg.frames import Size, instances_in_frame
from callbacks.seg.gallery import Gallery, ShownImage, draw_sheet
from callbacks.seg.image_table import IOU, coco_records
from evaluation.seg.confusion import pair_detections
from evaluation.seg.draw import colour_of
from evaluation.seg.legend import with_legend
from structures import Instances, RLEMasks, rle

NEITHER, NOVEL, KNOWN = range(3)  # labels that instances are shown with
NAMES = ("neither", "novel", "known")


class KnownUnknownGallery(Gallery):
    """Draw known and novel objects next to what the best predictions find, for a few images.

    See `Gallery`, in whose place it is for data with known and novel categories; it does nothing
    for others. Known and novel objects have a colour each, novel ones from the ground truth of the
    datamodule, because batches lack them. Predictions have the colour of the object that they find
    at IoU .5, each object found once and by the best score first, or a third one and no mask.
    Predictions in a crowd region that find no object are left out.

    Args:
        num_pictures: number of images shown, spread over the data set (see `FixedSample`).
        every_n_epochs: epochs between galleries (see `AfterEvaluation`).
        best: predictions of an image that are shown, those with the highest scores; what resembles
            no known object may score low (A469).
        max_side: larger images are reduced to this many pixels on the longer side.

    Raises:
        ValueError: an argument is out of range.
    """

    entry = "known_unknown"
    class_agnostic = True  # a prediction is labelled by what it finds

    def __init__(
        self,
        num_pictures: int = 8,
        every_n_epochs: int = 1,
        best: int = 10,
        max_side: int = 640,
    ) -> None:
        super().__init__(num_pictures, every_n_epochs, max_side)
        if best < 1:
            raise ValueError(f"a gallery needs best >= 1, got {best}")
        self.best = best

    def draws(self, data: Any) -> bool:
        """Return whether the data have known and novel categories."""
        return getattr(data, "known_split", None) is not None

    def chosen(self, prediction: Instances, size: Size) -> Instances:
        """Return the predictions with the highest scores, in the frame of the file."""
        del size
        order = prediction.scores.argsort(descending=True, stable=True)
        return prediction.select(order[: self.best]).to("cpu").detach()

    def classes(self, pl_module: pl.LightningModule) -> Sequence[str]:
        """Return what a prediction may find."""
        del pl_module
        return NAMES

    def finished(
        self, trainer: pl.Trainer, split: str, shown: Sequence[ShownImage]
    ) -> list[ShownImage]:
        """Return the images with all objects, and all instances labelled by what they are."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        objects: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
        if shown:
            wanted = {one.number for one in shown}
            for annotation in data.ground_truth(split)["annotations"]:
                if annotation["image_id"] in wanted:
                    objects[annotation["image_id"]].append(annotation)
        known = set(data.known_split.known)
        return [labelled(one, objects[one.number], known) for one in shown]

    def sheet(self, shown: Sequence[ShownImage], names: Sequence[str]) -> npt.NDArray[np.uint8]:
        """Return truth and prediction side by side above a legend."""
        text = f"the {self.best} best predictions of each image; found: IoU at least {IOU:g}"
        pieces = [
            ("known object, or finds one", colour_of(KNOWN)),
            ("novel object, or finds one", colour_of(NOVEL)),
            ("finds no object", colour_of(NEITHER)),
            (text, None),
        ]
        short = ["", *names[1:]]  # most predictions find no object
        return with_legend(draw_sheet([_without_misses(one) for one in shown], short, 0.0), pieces)


def labelled(one: ShownImage, objects: Sequence[Mapping[str, Any]], known: set[int]) -> ShownImage:
    """Return an image with the given objects, and labels `KNOWN`, `NOVEL` or `NEITHER`.

    Args:
        one: the image, with predictions in the frame of its file.
        objects: COCO annotations of the image, masks as run lengths.
        known: ids of the known categories.
    """
    prediction, size = one.prediction, one.truth.size
    kinds = torch.tensor(
        [KNOWN if a["category_id"] in known else NOVEL for a in objects], dtype=torch.int64
    )
    kind: Any = "bbox" if prediction.masks is None else "segm"
    pairs = pair_detections(objects, coco_records(prediction), prediction.size, IOU, kind)
    labels = torch.full((len(prediction),), NEITHER)
    labels[pairs.found] = kinds[pairs.truth]
    judged = torch.from_numpy(np.sort(np.concatenate([pairs.found, pairs.wrong])))
    found = dataclasses.replace(prediction, labels=labels).select(judged)
    boxes = torch.tensor([a["bbox"] for a in objects], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    truth = Instances(
        boxes=boxes,
        scores=torch.ones(len(objects)),
        labels=kinds,
        size=prediction.size,
        masks=RLEMasks.from_coco([a["segmentation"] for a in objects], prediction.size),
    )
    return dataclasses.replace(
        one,
        truth=instances_in_frame(truth, size),
        crowd=np.array([bool(a.get("iscrowd", 0)) for a in objects], dtype=bool),
        prediction=instances_in_frame(found, size),
    )


def _without_misses(one: ShownImage) -> ShownImage:
    """Return an image in which predictions that find nothing are boxes, to be drawn."""
    found = one.prediction
    if found.masks is None:
        return one
    none = rle.encode(np.zeros(found.size, dtype=bool))
    kinds = zip(found.masks, found.labels.tolist(), strict=True)
    masks = RLEMasks.from_runs((none if k == NEITHER else m for m, k in kinds), found.size)
    return dataclasses.replace(one, prediction=dataclasses.replace(found, masks=masks))
