"""Cells of the study are those of `evaluate.py robustness`."""

import numpy as np
import pytest

import evaluate
from benchmarks.robustness import scoring
from benchmarks.robustness.images import Images
from datamodules.mil.standardisation import Standardisation
from datamodules.transforms.bag_shifts import SHIFTS
from datamodules.transforms.patch_shifts import PATCH_SHIFTS
from evaluation.robustness.grid import read_grids
from tests.support.bright_objects import write_bright, write_scenes
from tests.support.mean_bags import WIDTH, write_bags, write_mean, write_patches


@pytest.fixture(autouse=True)
def once_each(monkeypatch):
    """Let the only draw be the data themselves."""
    monkeypatch.setattr(scoring, "weights", lambda count: np.ones((1, count), dtype=np.int64))


def cells_of_the_command(file, *words):
    """Return the cells that the command writes."""
    assert evaluate.main(["robustness", *map(str, words), "--cells", str(file)]) == 0
    (grid,) = read_grids([file]).values()
    return grid.cells


def compare(scorer, wanted, main):
    """Compare all cells."""
    for place, metrics in wanted.items():
        found = scorer(place)
        assert next(iter(found.metrics)) == main
        assert {name: found.metrics[name] for name in metrics} == metrics
        np.testing.assert_allclose(found.draws, [metrics[main]], atol=1e-12)


def test_images(tmp_path):
    truth, other = write_scenes(tmp_path), write_scenes(tmp_path / "night", ((50, 70), (64, 64)))
    checkpoint = write_bright(tmp_path / "bright.ckpt")
    words = ("--ckpt", checkpoint, "--annotations", truth, "--domain", f"night={other}")
    words += ("--corruptions", "brightness", "zoom_blur", "--severities", 1, 4)
    wanted = cells_of_the_command(tmp_path / "cells.csv", *words)
    assert len(wanted) == 6
    images = {
        None: Images(truth, tmp_path / "images"),
        "night": Images(other, tmp_path / "night/images"),
    }
    compare(scoring.ImageScorer(checkpoint, images), wanted, "segm_map")


def test_bags(tmp_path):
    data, checkpoint = write_bags(tmp_path / "bags.npz"), write_mean(tmp_path / "mean.ckpt")
    words = ("--ckpt", checkpoint, "--data", data, "--severities", 3)
    wanted = cells_of_the_command(tmp_path / "cells.csv", *words)
    assert {name for name, _ in wanted} == {"clean", *SHIFTS}
    compare(scoring.BagScorer(checkpoint, data), wanted, "bag_auroc")


def test_patches(tmp_path, monkeypatch):
    encoder = "tests.support.mean_bags.small_encoder"
    monkeypatch.setattr(scoring, "ENCODER", encoder)
    write_patches(tmp_path, 8)
    checkpoint = write_mean(tmp_path / "mean.ckpt")
    data, patches = tmp_path / "slides.csv", tmp_path / "patches"
    words = ("--ckpt", checkpoint, "--data", data, "--patches", patches, "--encoder", encoder)
    wanted = cells_of_the_command(tmp_path / "cells.csv", *words, "--severities", 2)
    assert {name for name, _ in wanted} == {"clean", *PATCH_SHIFTS}
    compare(scoring.BagScorer(checkpoint, data, patches), wanted, "bag_auroc")


def test_features_of_tiles_are_standardised_as_in_training(tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "ENCODER", "tests.support.mean_bags.small_encoder")
    table, patches = write_patches(tmp_path, 4)
    scorer = scoring.BagScorer(write_mean(tmp_path / "mean.ckpt"), table, patches)
    fitted = Standardisation(np.zeros(WIDTH), np.full(WIDTH, 2.0))
    scorer.predictor.data.standardisation = fitted
    plain = scorer.features.of("s0", "jpeg", 2)
    bag = scorer.predictor.data.source("predict").bag(0)
    found = scorer.change("jpeg", 2)(bag)
    np.testing.assert_allclose(found.features, plain / 2, rtol=1e-6)
