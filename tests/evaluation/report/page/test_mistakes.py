"""Lists of mistakes and the gallery, on a set of images whose errors are known."""

import numpy as np
import pytest

from evaluation.report.errors import detection_errors
from evaluation.report.page.gallery import choose_images, gallery_images
from evaluation.report.page.judged import Judged, f1
from evaluation.report.page.mistakes import image_mistakes
from evaluation.report.page.seg_scores import tuned_point
from evaluation.seg.operating_point import count_at_confidence
from tests.support.error_scenes import random_scenes

SIZE = (40, 50)


def box(image, category, x, score=None, **more):
    record = {"image_id": image, "category_id": category, "bbox": [x, 5, 8, 8], **more}
    return record | ({"area": 64, "id": 0, **more} if score is None else {"score": score})


TRUTH = {
    "images": [{"id": n, "file_name": f"{n}.png", "height": 40, "width": 50} for n in range(1, 6)],
    "categories": [{"id": 7, "name": "rod"}, {"id": 9, "name": "dot"}],
    "annotations": [
        {**box(1, 7, 5), "id": 1},
        {**box(1, 9, 30), "id": 2},
        {**box(2, 7, 5), "id": 3, "area": 900},
        {**box(3, 9, 5), "id": 4},
        {**box(3, 9, 30, iscrowd=1), "id": 5},
    ],
}
FIRST = [
    box(1, 7, 5, 0.9), box(1, 7, 5.5, 0.8), box(1, 7, 30, 0.7),  # found, twice; a wrong class
    box(2, 9, 25, 0.6), box(2, 7, 5, 0.2),  # nothing there; found below the confidence
    box(3, 9, 5, 0.9), box(3, 9, 30, 0.95),  # found; in a crowd
    box(4, 7, 5, 0.99),  # nothing there
]  # fmt: skip
SECOND = [box(2, 7, 5, 0.9)]


def judged(*results, score=0.5, max_dets=100):
    images = tuple(detection_errors(TRUTH, rows, "bbox", max_dets=max_dets) for rows in results)
    names = ("one", "two")[: len(results)]
    return Judged(TRUTH, names, results, images, score, "bbox")


def test_the_true_class_may_have_the_id_0():
    truth = {**TRUTH, "categories": [{"id": 0, "name": "rod"}, {"id": 9, "name": "dot"}]}
    truth["annotations"] = [{**box(1, 0, 5), "id": 1}]
    rows = [box(1, 9, 5, 0.9)]
    images = detection_errors(truth, rows, "bbox")
    listed = image_mistakes(Judged(truth, ("one",), (rows,), (images,), 0.5, "bbox"))
    (table,) = [t for t in listed.tables if t.title == "Most confident wrong classes"]
    assert dict(zip(table.columns, table.rows[0], strict=True))["true class"] == "rod"


def test_lists_of_one_run():
    listed = image_mistakes(judged(FIRST))
    tables = {table.title: table for table in listed.tables}
    worst = tables["Images by F1, worst first"].rows
    assert [row[0].text for row in worst] == ["2.png", "4.png", "1.png", "3.png"]  # 5 has no F1
    assert worst[2][1:] == (pytest.approx(2 / (2 + 2 + 1)), 1, 2, 1)
    nothing = tables["Most confident detections of nothing"].rows
    assert [(row[0].text, row[1], row[2]) for row in nothing] == [
        ("4.png", "rod", 0.99), ("2.png", "dot", 0.6)
    ]  # fmt: skip
    (wrong,) = tables["Most confident wrong classes"].rows
    assert wrong[1:4] == ("rod", "dot", 0.7)
    (twice,) = tables["Most confident duplicates"].rows
    assert twice[2] == 0.8
    missed = tables["Largest missed objects"].rows
    assert [row[1:] for row in missed] == [
        ("rod", 900, "below the confidence"), ("dot", 64, "wrong class")
    ]  # fmt: skip
    assert {row[0].target for t in listed.tables for row in t.rows} == {f"i{n}" for n in range(4)}
    assert listed.positions == {0, 1, 2, 3}
    plain = image_mistakes(judged(FIRST), linked=False)
    assert plain.tables[0].rows[0][0] == "2.png"


def test_lists_between_runs():
    tables = {table.title: table for table in image_mistakes(judged(FIRST, SECOND)).tables}
    found = tables["Found by one, missed by two"].rows
    assert [(row[0].text, row[1]) for row in found] == [("1.png", "rod"), ("3.png", "dot")]
    assert [row[3] for row in tables["Found by two, missed by one"].rows] == [0.9]
    assert tables["Largest missed objects"].columns[1] == "run"


def test_counts_are_those_of_the_operating_point():
    truth, rows = random_scenes(3)
    images = detection_errors(truth, rows, "bbox")
    found = Judged(truth, ("run",), (rows,), (images,), 0.4, "bbox").counts(0)
    point = count_at_confidence(truth, rows, 0.4, 0.5, "bbox")
    order = np.argsort([image["id"] for image in truth["images"]])
    wanted = point.counts.sum(axis=1)
    assert np.array_equal(found[order][:, [0, 2]], wanted[:, [0, 2]])
    assert found.sum() > 20


def test_half_the_gallery_is_the_worst():
    one = judged(FIRST)
    assert choose_images(one, 2) == {1: "worst", 3: "random"} or choose_images(one, 2)[1] == "worst"
    four = choose_images(one, 4)
    assert list(four.values()).count("worst") == 2
    assert list(four.values()).count("typical") == 1
    assert set(choose_images(one, 99)) == set(range(5))
    assert choose_images(one, 0) == {}
    assert choose_images(one, 4, seed=1) == choose_images(one, 4, seed=1)
    assert np.isnan(f1(one.counts(0))[4])


def test_outlines_say_what_is_right_and_wrong():
    one = judged(FIRST)
    pixels = np.zeros((*SIZE, 3), np.uint8)
    images = gallery_images(one, {2: "worst", 0: "random", 4: "random"}, {1}, lambda _: pixels)
    assert [image.name for image in images] == ["2.png", "1.png", "3.png", "5.png"]
    assert [image.note for image in images][::3] == ["F1 0.00, mistakes", "no objects, random"]
    by_name = {image.name: image for image in images}
    assert [o.kind for o in by_name["1.png"].truth] == ["found", "miss"]
    assert [o.kind for o in by_name["3.png"].truth] == ["found", "crowd"]
    kinds = [o.kind for o in by_name["1.png"].predictions[0]]
    assert kinds == ["correct", "dupe", "cls"]
    assert [o.kind for o in by_name["3.png"].predictions[0]] == ["ignored", "correct"]
    assert [o.label for o in by_name["2.png"].predictions[0]] == [1, 0]
    assert by_name["5.png"].predictions == ((),)
    both = gallery_images(judged(FIRST, SECOND), {0: "", 1: "", 2: ""}, (), lambda _: pixels)
    kinds = {image.name: [o.kinds for o in image.truth] for image in both}
    assert kinds["1.png"] == [("found", "miss"), ()]  # the second object is missed by both
    assert kinds["2.png"] == [("miss", "found")]
    assert kinds["3.png"] == [("found", "miss"), ()]


def test_the_operating_point_is_that_of_the_best_f1():
    truth, rows = random_scenes(3)
    point = tuned_point(truth, rows, "bbox")
    values = [
        count_at_confidence(truth, rows, score, 0.5, "bbox").metrics()["mean_f1"]
        for score in (0.0, 0.25, 0.5, 0.75)
    ]
    assert point.metrics()["mean_f1"] >= max(values) - 1e-6
    assert tuned_point(truth, [], "bbox").score == 0.5


def test_the_most_confident_predictions_of_an_image_are_drawn():
    """A model that is hardly trained may have hundreds, whose outlines make a page heavy."""
    scores = np.random.default_rng(0).permutation(np.linspace(0.3, 0.9, 130)).tolist()
    many = [box(2, 7, n % 40, score) for n, score in enumerate(scores)]
    pixels = np.zeros((*SIZE, 3), dtype=np.uint8)
    one = judged(many, SECOND, max_dets=300)
    (image,) = gallery_images(one, {1: "worst"}, (), lambda _: pixels)
    drawn = [outline.score for outline in image.predictions[0]]
    assert sorted(drawn) == pytest.approx(sorted(scores)[-100:], abs=1e-4)
    assert len(image.predictions[1]) == 1
    assert image.note == "F1 0.02, worst, the 100 most confident predictions are drawn"
    (image,) = gallery_images(judged(SECOND), {1: "worst"}, (), lambda _: pixels)
    assert "confident" not in image.note
