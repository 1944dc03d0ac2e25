"""Tests of the heat maps of the report."""

import pytest

from evaluation.report.page.robustness import robustness_matrices
from evaluation.robustness.grid import read_grids

HEADER = "model,corruption,severity,task,metric,value\n"


@pytest.fixture
def matrices(tmp_path):
    def make(rows):
        (tmp_path / "cells.csv").write_text(HEADER + "\n".join(rows) + "\n")
        return robustness_matrices(read_grids([tmp_path / "cells.csv"]))

    return make


def test_rows_are_corruptions_with_the_clean_value_first_and_no_other_data_sets(matrices):
    (found,) = matrices(
        [
            "a,clean,0,segm,map,0.5",
            "a,fog,2,segm,map,0.25",
            "a,jpeg_compression,1,segm,map,0.125",
            "a,domain:night,0,segm,map,0.4",
        ]
    )
    assert found.title == "Mask AP under corruptions"
    assert found.rows == ("fog", "jpeg_compression")
    assert found.columns == ("clean", "1", "2", "3", "4", "5")
    assert found.values == (
        (0.5, None, 0.25, None, None, None),
        (0.5, 0.125, None, None, None, None),
    )


def test_bags_have_shifts(matrices):
    (found,) = matrices(["a,clean,0,bag,auroc,0.9", "a,feature_noise,5,bag,auroc,0.7"])
    assert (found.title, found.row_label) == ("auroc under shifts", "shift")
    assert found.values == ((0.9, None, None, None, None, 0.7),)
