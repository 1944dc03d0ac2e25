import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from callbacks.seg.gallery import MaskGallery, ShownImage, draw_sheet
from callbacks.seg.known_unknown import KNOWN, NEITHER, NOVEL, KnownUnknownGallery, labelled
from evaluation.seg.draw import colour_of
from formats.coco.splits import CategorySplit
from structures import Instances, RLEMasks

SIZE = (20, 40)


def masks(boxes):
    dense = np.zeros((len(boxes), *SIZE), dtype=bool)
    for mask, (x1, y1, x2, y2) in zip(dense, boxes, strict=True):
        mask[y1:y2, x1:x2] = True
    return RLEMasks.from_dense(dense)


def objects(*given):
    """Return annotations of (category, crowd, corners)."""
    corners = [box for _, _, box in given]
    return [
        {
            "category_id": category,
            "iscrowd": crowd,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "segmentation": mask,
        }
        for (category, crowd, (x1, y1, x2, y2)), mask in zip(
            given, masks(corners).to_coco(), strict=True
        )
    ]


def shown(boxes, with_masks):
    none = Instances.empty((10, 20))  # shown at half the size
    return ShownImage(
        image=np.zeros((10, 20, 3), dtype=np.uint8),
        name="image 1",
        truth=none,
        crowd=np.zeros(0, dtype=bool),
        prediction=Instances(
            boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            scores=torch.linspace(0.9, 0.1, len(boxes)),
            labels=torch.zeros(len(boxes), dtype=torch.int64),
            size=SIZE,
            masks=masks(boxes) if with_masks else None,
        ),
    )


@pytest.mark.parametrize("with_masks", [True, False])
def test_predictions_are_coloured_by_what_they_find(with_masks):
    known, novel, crowd = (0, 0, 10, 10), (12, 0, 22, 10), (24, 0, 40, 20)
    truth = objects((7, 0, novel), (3, 0, known), (3, 1, crowd))
    predictions = [
        (0, 0, 10, 9),  # finds the known object
        (0, 0, 10, 10),  # again, with a lower score: nothing is left for it
        (26, 2, 32, 8),  # in the crowd region: not shown
        (12, 0, 22, 6),  # IoU .6 with the novel object
        (0, 12, 10, 20),
    ]
    one = labelled(shown(predictions, with_masks), truth, {3})
    assert one.truth.labels.tolist() == [NOVEL, KNOWN, KNOWN]
    assert one.crowd.tolist() == [False, False, True]
    assert one.prediction.labels.tolist() == [KNOWN, NEITHER, NOVEL, NEITHER]
    assert one.truth.boxes[0].tolist() == [6, 0, 11, 5]  # in the frame in which it is shown
    assert one.prediction.boxes[0].tolist() == [0, 0, 5, 4.5]
    assert (one.prediction.masks is None) == (not with_masks)


@pytest.mark.parametrize("truth", [[], objects((3, 0, (0, 0, 10, 10)))])
def test_images_without_objects_or_predictions(truth):
    assert len(labelled(shown([], True), truth, {3}).prediction) == 0
    found = labelled(shown([(20, 0, 30, 10)], True), truth, {3}).prediction
    assert found.labels.tolist() == [NEITHER]


class Data(pl.LightningDataModule):
    """The stand-in's images with the square known and the bar novel, or a closed world."""

    def __init__(self, stand_in, known):
        super().__init__()
        self.stand_in = stand_in
        self.known_split = CategorySplit("ids", known) if known else None

    def val_dataloader(self):
        return self.stand_in.images()

    test_dataloader = val_dataloader

    def ground_truth(self, split):
        return self.stand_in.ground_truth()


def images(folder):
    return {path.name: np.asarray(Image.open(path)) for path in folder.glob("*.png")}


def has(image, label):
    return bool((image == colour_of(label)).all(axis=2).any())


def test_a_run_has_one_gallery(stand_in, make_trainer, tmp_path):
    trainer = make_trainer([MaskGallery(2), KnownUnknownGallery(2)])
    for run in (trainer.validate, trainer.test):
        run(stand_in.SegModule(), datamodule=Data(stand_in, (5,)), verbose=False)
    drawn = images(tmp_path / "run" / "pictures")
    assert sorted(drawn) == ["gallery_test.png", "gallery_val.png"]
    sheet = drawn["gallery_val.png"]
    assert all(has(sheet, label) for label in (KNOWN, NOVEL, NEITHER))
    closed = make_trainer([MaskGallery(2), KnownUnknownGallery(2)])
    closed.validate(stand_in.SegModule(), datamodule=Data(stand_in, ()), verbose=False)
    usual = images(tmp_path / "run" / "pictures")["gallery_val.png"]
    assert usual.shape[0] < sheet.shape[0]  # without a legend
    assert not np.array_equal(usual, sheet[: usual.shape[0]])


def test_the_best_predictions_are_shown_whatever_their_scores(stand_in):
    gallery = KnownUnknownGallery(num_pictures=1, best=2)
    found = stand_in.found(0)
    low = Instances(found.boxes, torch.tensor([0.1, 0.3, 0.2]), found.labels, found.size)
    assert gallery.chosen(low, (1, 1)).scores.tolist() == pytest.approx([0.3, 0.2])
    with pytest.raises(ValueError, match="best >= 1"):
        KnownUnknownGallery(best=0)
    with pytest.raises(ValueError, match="num_pictures"):
        KnownUnknownGallery(num_pictures=0)


def test_what_finds_nothing_has_its_score_alone_as_a_name_and_no_mask():
    one = labelled(shown([(20, 0, 30, 10)], True), [], {3})
    sheet = KnownUnknownGallery().sheet([one], ("neither", "novel", "known"))
    plain = draw_sheet([labelled(shown([(20, 0, 30, 10)], False), [], {3})], [""] * 3, 0.0)
    assert np.array_equal(sheet[: plain.shape[0], : plain.shape[1]], plain)
