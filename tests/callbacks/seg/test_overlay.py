import numpy as np
import torch

from callbacks.seg import overlay
from callbacks.seg.overlay import draw_overlay
from evaluation.seg.draw import colour_of, draw_instances
from structures import Instances, RLEMasks

NAMES = ("cat", "dog", "owl")


def found(scores=(0.9, 0.8, 0.4)):
    dense = np.zeros((3, 480, 640), dtype=bool)
    for k in range(3):
        dense[k, 50:150, 200 * k : 200 * k + 150] = True
    boxes = torch.tensor([[200.0 * k, 50, 200 * k + 150, 150] for k in range(3)])
    labels = torch.tensor([1, 1, 2])
    return Instances(boxes, torch.tensor(scores), labels, (480, 640), RLEMasks.from_dense(dense))


def pieces_of(monkeypatch, *arguments):
    kept = []
    monkeypatch.setattr(overlay, "with_legend", lambda image, pieces: kept.append(pieces) or image)
    return draw_overlay(np.zeros((480, 640, 3), dtype=np.uint8), *arguments), kept[0]


def test_the_legend_counts_the_classes_above_the_score(monkeypatch):
    drawn, pieces = pieces_of(monkeypatch, found(), NAMES, 0.5, "a.jpg")
    assert pieces == [
        ("a.jpg", None),
        ("2 objects with a score of 0.5 or more", None),
        ("dog (2)", colour_of(1)),
    ]
    strong = found().select(torch.tensor([0, 1]))
    parts = (strong.boxes, strong.labels, strong.masks, NAMES)
    plain = np.zeros((480, 640, 3), dtype=np.uint8)
    np.testing.assert_array_equal(drawn, draw_instances(plain, *parts, scores=strong.scores))


def test_one_class_has_no_colour_of_its_own(monkeypatch):
    one = found().select(torch.tensor([0]))
    one = Instances(one.boxes, one.scores, torch.tensor([0]), one.size, one.masks)
    _, pieces = pieces_of(monkeypatch, one, ("nucleus",), 0.5)
    assert pieces == [("1 object with a score of 0.5 or more", None), ("nucleus (1)", None)]


def test_an_image_without_predictions_says_so(monkeypatch):
    _, pieces = pieces_of(monkeypatch, found(), NAMES, 0.95, "a.jpg")
    assert pieces == [("a.jpg", None), ("no prediction with a score of 0.95 or more", None)]


def test_a_long_image_is_reduced():
    dense = np.zeros((1, 100, 3200), dtype=bool)
    dense[0, 20:80, 2000:2400] = True
    boxes, label = torch.tensor([[2000.0, 20, 2400, 80]]), torch.tensor([0])
    one = Instances(boxes, torch.tensor([0.9]), label, (100, 3200), RLEMasks.from_dense(dense))
    drawn = draw_overlay(np.zeros((100, 3200, 3), dtype=np.uint8), one, NAMES, 0.5)
    assert drawn.shape == (50 + 22 + 8, 1600, 3)
    assert drawn[25, 1100].any()
    assert not drawn[25, 900].any()


def test_a_reduced_image_has_its_instances_where_they_are():
    half = draw_overlay(np.zeros((240, 320, 3), dtype=np.uint8), found(), NAMES, 0.5)
    scale = 2  # a small image is enlarged again, by an integer
    assert half.shape[:2] > (240 * scale, 320 * scale)
    inside = half[(100 // 2) * scale, (75 // 2) * scale]
    outside = half[(300 // 2) * scale, (75 // 2) * scale]
    assert inside.any()
    assert not outside.any()
