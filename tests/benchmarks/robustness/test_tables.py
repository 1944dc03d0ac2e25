"""Tables of the study from cells that are on the disk."""

import numpy as np
import pytest

from benchmarks.robustness import cells, tables
from benchmarks.robustness.images import DOMAINS
from benchmarks.robustness.plan import DIGITS, METHODS, SETS, Run
from evaluation.robustness.names import BENCHMARK
from formats.files import write_json

PLACES = cells.wanted(BENCHMARK, DOMAINS)


def scored(root, method, seed, value, count=None):
    """Write the cells of a run: ``value`` in all, twice as much on clean images."""
    folder = Run(DIGITS, method, seed).folder(root)
    folder.mkdir(parents=True)
    checkpoint = folder / "last.ckpt"
    checkpoint.write_bytes(b"weights")
    spread = np.random.default_rng(0).normal(scale=0.01, size=cells.DRAWS)

    def score(place):
        mine = 2 * value if place == ("clean", 0) else value
        return cells.Cell({"segm_map": mine}, mine + spread)

    cells.fill(folder, checkpoint, PLACES[:count], lambda: score)
    write_json(folder / "trained.json", {"checkpoint": "last.ckpt", "seconds": 60.0, "steps": 1})


def row(text, title):
    """Return the cells of the row of a title."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {title} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_scores_and_paired_differences(tmp_path):
    for seed in (0, 1):
        scored(tmp_path, "mask_rcnn_bn", seed, 0.2)
        scored(tmp_path, "mask_rcnn_gn", seed, 0.25)
    text = tables.tables(tmp_path)
    mean = row(text, "Mask R-CNN, BN")
    assert mean[1:3] == ["2", "60"]
    assert mean[4].startswith("0.400 [0.3")
    assert mean[5].startswith("0.200 [0.1")
    assert mean[6].startswith("0.500 [")
    assert mean[7:] == ["0.200"] * 7  # four groups, three domains
    difference = row(text, "Mask R-CNN, GN - Mask R-CNN, BN")
    assert difference[1:4] == [
        "2", "+0.100 [+0.100, +0.100], 2/2", "+0.050 [+0.050, +0.050], 2/2"
    ]  # fmt: skip
    assert "severities" not in text


def test_what_is_not_complete_is_named(tmp_path):
    some = len(PLACES) - 2 * len(BENCHMARK)  # without the severities 2 and 4
    scored(tmp_path, "mask_rcnn_bn", 0, 0.2)
    scored(tmp_path, "yolo", 0, 0.25, some)
    scored(tmp_path, "mask_rcnn_gn", 0, 0.25, some - 1)
    text = tables.tables(tmp_path)
    assert "Means are over the severities 1, 3 and 5." in text
    assert "Not complete, so not counted: Mask R-CNN, GN (seed 0)." in text
    assert row(text, "YOLOSeg - Mask R-CNN, BN")[3] == "+0.050 [+0.050, +0.050]"
    assert text.count("No model is scored yet.") == len(SETS) - 1


@pytest.mark.parametrize("data", SETS)
def test_pairs_are_methods(data):
    asked = tables.ASKED[data]
    assert {name for pair in asked.pairs for name in pair} <= set(METHODS[data])
    corruptions = {name for names in asked.groups.values() for name in names}
    assert set(asked.alone) <= corruptions


def test_cells_of_another_training_do_not_count(tmp_path):
    scored(tmp_path, "mask_rcnn_bn", 0, 0.2)
    (Run(DIGITS, "mask_rcnn_bn", 0).folder(tmp_path) / "last.ckpt").write_bytes(b"others")
    assert tables.tables(tmp_path).count("No model is scored yet.") == len(SETS)
