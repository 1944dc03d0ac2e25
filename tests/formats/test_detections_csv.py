"""Files of detections."""

import numpy as np
import pytest

from formats.detections_csv import read_detections, write_detections
from structures import DataProblems


def test_rows_come_back_in_full_and_none_are_an_empty_file(tmp_path):
    rows = [(0.1 + 0.2, 51200, 20480.5), (np.float32(1), np.int64(0), 7.0), (0, 1, 2)]
    write_detections(tmp_path / "new/a.csv", rows)
    assert (
        tmp_path / "new/a.csv"
    ).read_text() == "0.30000000000000004,51200,20480.5\n1,0,7\n0,1,2\n"
    assert read_detections(tmp_path / "new/a.csv").tolist() == [
        [0.1 + 0.2, 51200, 20480.5],
        [1, 0, 7],
        [0, 1, 2],
    ]
    write_detections(tmp_path / "b.csv", [])
    assert (tmp_path / "b.csv").read_bytes() == b""
    assert read_detections(tmp_path / "b.csv").shape == (0, 3)


@pytest.mark.parametrize("header", ["probability,x,y", "Confidence, X coordinate, Y coordinate"])
def test_a_header_is_passed_over(header, tmp_path):
    (tmp_path / "a.csv").write_text(f"{header}\n.5, 3, 4\n\n")
    assert read_detections(tmp_path / "a.csv").tolist() == [[0.5, 3, 4]]
    (tmp_path / "a.csv").write_text(f"{header}\n")
    assert read_detections(tmp_path / "a.csv").shape == (0, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y,probability\n", "line 1: not three numbers"),  # another order
        (".5,3\n", "line 1: not three numbers in '.5,3'"),
        (".5,3,4\nnan,3,4\n", "line 2: not three numbers"),
        ("7,3,4\n", r"line 1: the probability is not in \[0, 1\]"),
        (".5,-3,4\n", "line 1: a place is negative"),
        ('"', "cannot be read as CSV"),
    ],
)
def test_rows_that_are_refused(text, message, tmp_path):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataProblems, match=message):
        read_detections(tmp_path / "a.csv")


def test_what_could_not_be_read_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="probability is not in"):
        write_detections(tmp_path / "a.csv", [(0.5, 1, 1), (1.5, 1, 1)])
    assert not (tmp_path / "a.csv").exists()
