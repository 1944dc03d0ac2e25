"""What the figures hold: line data, legends, marks, the order and height of bars."""

import sys

import numpy as np
import pytest
from PIL import Image

from evaluation.report.plots import (
    ORANGE,
    plot_attention,
    plot_coco_pr,
    plot_confusion,
    plot_operating_points,
    plot_pr_roc,
    save_figure,
)
from evaluation.seg.coco_scores import CocoScores, PrecisionRecall
from evaluation.seg.operating_point import operating_point


def scores():
    """Two classes: precision 1 up to recall .5 at IoU <= .70, nothing above; a third is absent."""
    precision = np.zeros((10, 101, 3))
    precision[:5, :51, :2] = 1
    precision[..., 2] = -1
    curves = PrecisionRecall(precision, precision[:, 0], precision)
    names = ((1, "a"), (2, "b"), (3, "c"))
    return CocoScores({}, (1, 10, 100), names, np.array([1, 1, 0]), 4, {"segm": curves})


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_coco_curves_and_their_aps():
    (axes,) = plot_coco_pr(scores()).axes
    assert legend(axes) == ["IoU .50   AP 0.505", "IoU .75   AP 0.000", "mean .50:.95   AP 0.252"]
    at_50, at_75, mean = (line.get_ydata() for line in axes.get_lines())
    np.testing.assert_allclose(at_50, np.arange(101) < 51)
    np.testing.assert_allclose(at_75, 0)
    np.testing.assert_allclose(mean, 0.5 * (np.arange(101) < 51))
    assert "segm" in axes.get_title() and "4 images" in axes.get_title()


def test_bag_curves_areas_and_threshold():
    labels = np.array([0, 0, 1, 1])
    figure = plot_pr_roc(
        {"good": (labels, [0.1, 0.2, 0.8, 0.9]), "mixed": (labels, [0.1, 0.8, 0.4, 0.9])},
        0.5,
        "val",
    )
    roc, pr = figure.axes
    assert legend(roc) == ["good   AUROC 1.000", "mixed   AUROC 0.750"]
    assert legend(pr) == ["good   AUPRC 1.000", "mixed   AUPRC 0.833"]  # (1 + 2/3) / 2
    marks = [
        [tuple(np.ravel(line.get_data())) for line in axes.get_lines() if line.get_marker() == "o"]
        for axes in (roc, pr)
    ]
    assert marks[0] == [(0, 1), (0.5, 0.5)]  # false positive rate, recall
    assert marks[1] == [(1, 1), (0.5, 0.5)]  # recall, precision
    assert "threshold 0.5" in figure.get_suptitle() and "val" in figure.get_suptitle()
    mixed = roc.get_lines()[3]
    np.testing.assert_allclose(mixed.get_xydata(), [[0, 0], [0, 0.5], [0.5, 0.5], [0.5, 1], [1, 1]])


def test_curves_of_operating_points():
    box = [0, 0, 4, 4]
    truth = {
        "images": [{"id": 1, "height": 9, "width": 9}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": 1, "bbox": b, "area": 16, "iscrowd": 0}
            for n, b in ((1, box), (2, [4, 4, 4, 4]))
        ],
    }
    hit = {"image_id": 1, "category_id": 1, "bbox": box, "score": 0.8}
    miss = hit | {"bbox": [0, 5, 4, 4], "score": 0.3}
    points = {
        name: operating_point(truth, rows, 0.25, iou_type="bbox")
        for name, rows in {"A": [hit, miss], "B": [hit]}.items()
    }
    figure = plot_operating_points(points)
    assert figure.get_suptitle().startswith("means over classes · box IoU 0.5 · 1 images")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "A   F1 0.500, tuned on these images 0.667 at 0.30",
        "B   F1 0.667, tuned on these images 0.667 at 0.00",
    ]
    precision, recall, f1, pr = figure.axes
    assert [axes.get_title() for axes in figure.axes[:3]] == ["precision", "recall", "F1"]
    for axes, low, high in ((precision, 0.5, 1), (recall, 0.5, 0.5), (f1, 0.5, 2 / 3)):
        first, second, mark = axes.get_lines()
        x, y = first.get_data()
        np.testing.assert_allclose([y[x < 0.3], y[(x > 0.3) & (x < 0.8)]][0], low)
        np.testing.assert_allclose(y[(x > 0.3) & (x < 0.8)], high)
        np.testing.assert_allclose(second.get_ydata()[x < 0.8], high)
        assert set(mark.get_xdata()) == {0.25}
    assert np.isnan(precision.get_lines()[0].get_ydata()[-1])  # nothing is that confident
    dots = [
        np.ravel(line.get_data()).tolist() for line in pr.get_lines() if line.get_marker() == "o"
    ]
    assert dots == [[0.5, 0.5], [0.5, 1]]  # recall, precision
    assert {0.0, 0.5} == set(pr.get_lines()[0].get_xdata())


def test_the_mark_divides_by_its_own_class():
    labels, probabilities = np.array([0, 0, 0, 0, 1, 1]), [0.9, 0.1, 0.1, 0.1, 0.9, 0.1]
    roc, pr = plot_pr_roc({"x": (labels, probabilities)}, threshold=0.5).axes
    (false_rate, recall), (_, precision) = (
        np.ravel(next(line for line in axes.get_lines() if line.get_marker() == "o").get_data())
        for axes in (roc, pr)
    )
    assert (false_rate, recall, precision) == (1 / 4, 1 / 2, 1 / 2)


def test_bag_curves_need_both_classes():
    with pytest.raises(ValueError, match="'only' needs labels 0 and 1"):
        plot_pr_roc({"only": (np.ones(3), np.ones(3))})
    figure = plot_pr_roc({"none": (np.array([0, 1]), np.array([0.1, 0.2]))}, threshold=0.5)
    assert not [line for line in figure.axes[1].get_lines() if line.get_marker() == "o"]


def test_confusion_shows_counts_and_shares():
    figure = plot_confusion(np.array([[9, 1], [0, 0]]), ["no", "yes"], "test")
    axes = figure.axes[0]
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts == {(0, 0): "9", (1, 0): "1", (0, 1): "0", (1, 1): "0"}  # (column, row)
    np.testing.assert_allclose(axes.get_images()[0].get_array(), [[0.9, 0.1], [0, 0]])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")
    with pytest.raises(ValueError, match="3 class names"):
        plot_confusion(np.eye(2), ["a", "b", "c"])


def bars(axes):
    """position -> (height, is a witness)."""
    from matplotlib.colors import to_rgba

    return {
        round(bar.get_x() + bar.get_width() / 2): (
            bar.get_height(),
            bar.get_facecolor() == to_rgba(ORANGE),
        )
        for bar in axes.patches
    }


def test_attention_is_sorted_and_witnesses_are_marked():
    images = np.arange(4 * 4, dtype=float).reshape(4, 2, 2)
    labels = np.array([0, 1, -1, 1])
    figure = plot_attention(np.array([0.1, 0.2, 0.4, 0.3]), images, labels, "bag 7")
    top, below = figure.axes
    assert bars(top) == {0: (0.4, False), 1: (0.3, True), 2: (0.2, True), 3: (0.1, False)}
    assert [label.get_text() for label in below.get_xticklabels()] == ["2", "3", "1", "0"]
    for position, image in zip((2, 3, 1, 0), below.get_images(), strict=True):
        np.testing.assert_array_equal(image.get_array(), images[position])
    assert [round(p.get_x() + 0.42) for p in below.patches] == [1, 2]
    assert set(legend(top)) == {"witness", "other", "uniform"}
    uniform = [line for line in top.get_lines() if line.get_linestyle() == "--"]
    assert uniform[0].get_ydata()[0] == 0.25
    assert figure.get_suptitle() == "bag 7"


def test_legend_names_only_what_a_bag_holds():
    figure = plot_attention(np.array([0.75, 0.25]), None, np.zeros(2))
    assert set(legend(figure.axes[0])) == {"other", "uniform"}


def test_attention_in_the_bags_order_without_images_or_labels():
    weights = np.array([0.1, 0.2, 0.4, 0.3])
    figure = plot_attention(weights, ordered=False, limit=3)
    (axes,) = figure.axes
    assert bars(axes) == {0: (0.2, False), 1: (0.4, False), 2: (0.3, False)}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "3"]
    assert legend(axes) == ["uniform"]
    assert axes.get_lines()[0].get_ydata()[0] == 0.25  # over the whole bag, shown or not
    assert "3 of 4 shown" in figure.get_suptitle()
    with pytest.raises(ValueError, match="4 attention weights but 3 instance_labels"):
        plot_attention(weights, None, np.zeros(3))
    with pytest.raises(ValueError, match=r"attention must be \(n,\)"):
        plot_attention(np.zeros((2, 2)))


def test_figures_are_written_without_pyplot(tmp_path):
    before = "matplotlib.pyplot" in sys.modules
    path = save_figure(plot_confusion(np.eye(2), ["a", "b"]), tmp_path / "new" / "c.png", dpi=50)
    assert np.asarray(Image.open(path).convert("RGB")).std() > 10
    assert ("matplotlib.pyplot" in sys.modules) == before
