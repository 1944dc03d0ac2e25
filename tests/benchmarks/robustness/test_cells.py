"""Cells of the study: none is scored twice, and their table is that of the command."""

import time

import numpy as np
import pytest

from benchmarks.robustness import cells
from evaluation.robustness.grid import read_grids

PLACES = cells.wanted(["fog", "snow"], ["dark"])


class Scorer:
    """Scores cells by their order, and stops like a killed process after some."""

    def __init__(self, stop=99):
        self.made, self.stop = [], stop

    def __call__(self, place):
        if len(self.made) == self.stop:
            raise KeyboardInterrupt
        self.made.append(place)
        value = PLACES.index(place) / 16
        metrics = {
            "segm_map": value,
            "segm_map_50": 0.75,
            "segm_ar_1": 0.5,
            "segm_map_large": np.nan,
        }
        return cells.Cell(metrics, np.full(cells.DRAWS, value))


@pytest.fixture
def checkpoint(tmp_path):
    """Return a file that stands for a checkpoint."""
    file = tmp_path / "last.ckpt"
    file.write_bytes(b"weights")
    return file


def test_severities_1_3_5_come_first():
    assert PLACES[:2] == [("clean", 0), ("domain:dark", 0)]
    assert [level for _, level in PLACES[2:]] == [1, 1, 3, 3, 5, 5, 2, 2, 4, 4]


def test_an_interrupted_run_goes_on(tmp_path, checkpoint):
    first, second = Scorer(stop=5), Scorer()
    with pytest.raises(KeyboardInterrupt):
        cells.fill(tmp_path, checkpoint, PLACES, lambda: first)
    assert cells.fill(tmp_path, checkpoint, PLACES, lambda: second) == 0
    assert first.made + second.made == PLACES
    assert cells.fill(tmp_path, checkpoint, PLACES, pytest.fail) == 0
    checkpoint.write_bytes(b"other weights")
    other = Scorer()
    cells.fill(tmp_path, checkpoint, PLACES, lambda: other)
    assert other.made == PLACES


def test_no_cell_begins_after_the_time(tmp_path, checkpoint):
    scorer = Scorer()
    past = time.time() - 1
    assert cells.fill(tmp_path, checkpoint, PLACES, lambda: scorer, past) == len(PLACES)
    assert not scorer.made


def test_the_table_is_one_of_the_command(tmp_path, checkpoint):
    cells.fill(tmp_path, checkpoint, PLACES, Scorer)
    (grid,) = read_grids([tmp_path / "robustness.csv"]).values()
    wanted = {p: {"segm_map": k / 16, "segm_map_50": 0.75} for k, p in enumerate(PLACES)}
    assert grid.cells == wanted


def test_draws_are_the_same_everywhere():
    assert (cells.weights(7) == cells.weights(7)).all()
    assert (cells.weights(7).sum(axis=1) == 7).all()
