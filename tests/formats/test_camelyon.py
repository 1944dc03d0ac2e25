"""Label tables of CAMELYON, by function and by command."""

import csv
import json

import pytest

import evaluate
from datamodules.mil.slide_table import read_slide_table


def splits(folder, challenge, labels, *words):
    """Run the command; return the exit code and the rows that it wrote, or None."""
    if isinstance(labels, str):
        (folder / "l.csv").write_text(labels)
        labels = folder / "l.csv"
    given = ["--challenge", challenge, "--labels", labels, "--out", folder / "s.csv", *words]
    code = evaluate.main(["camelyon-splits", *map(str, given)])
    if code:
        assert not (folder / "s.csv").exists()
        return code, None
    with (folder / "s.csv").open() as stream:
        return code, list(csv.DictReader(stream))


def test_the_published_tables(tmp_path, shared_data):
    labels = shared_data("wsi_labels")
    _, rows = splits(tmp_path, "16", labels / "camelyon16.csv", "--report", tmp_path / "r.json")
    counts = json.loads((tmp_path / "r.json").read_text())["counts"]
    assert counts == {"test": {"0": 80, "1": 49}, "train": {"0": 159, "1": 111}}
    table, problems = read_slide_table(tmp_path / "s.csv")
    assert (problems, len(table.slide_ids), len(rows)) == ([], 399, 399)
    assert all(
        (split == "test") == slide.startswith("test")
        for slide, split in zip(table.slide_ids, table.splits, strict=True)
    )
    _, rows = splits(tmp_path, "17", labels / "camelyon17.csv")
    table, problems = read_slide_table(tmp_path / "s.csv")
    assert problems == []
    assert [int((table.labels == k).sum()) for k in range(4)] == [318, 36, 59, 87]
    assert {(row["patient_id"], row["fold"]) for row in rows} == {
        (f"patient_{p:03d}", str(p // 20)) for p in range(100)
    }


def test_names_and_labels_as_words(tmp_path):
    _, rows = splits(tmp_path, "16", "slide_id,label\nTumor_001.tif,tumor\nTest_114,Normal\n")
    assert rows == [
        {"slide_id": "Tumor_001", "label": "1", "split": "train"},
        {"slide_id": "Test_114", "label": "0", "split": "test"},
    ]
    text = "slide_id,label\npatient_042_node_0.tif,ITC\npatient_042_node_1.tif,macro\n"
    _, rows = splits(tmp_path, "17", text)
    assert [tuple(row.values()) for row in rows] == [
        ("patient_042_node_0", "patient_042", "1", "2"),
        ("patient_042_node_1", "patient_042", "3", "2"),
    ]


@pytest.mark.parametrize(
    ("challenge", "lines", "message"),
    [
        ("16", "test_049,1", "slide test_049, line 2: is a duplicate"),
        ("16", "normal_086.tif,0", "slide normal_086, line 2: has a metastasis and was renamed"),
        ("16", "normal_001,1", "the label of a slide named normal is 1"),
        ("16", "tumor_112,1", "is no slide of CAMELYON16"),
        ("16", "test_001,2", "the label is '2'; write 0 for normal"),
        ("16", "test_001,1\nTest_001.tif,1", "line 3: the slide is also in line 2"),
        ("17", "test_001,1", "is no slide of CAMELYON17"),
        ("17", "patient_000_node_0,4", "the label is '4'; write 0 to 3"),
        ("17", "patient_100_node_0,0", "the centre is None"),
    ],
)
def test_lines_that_are_refused(challenge, lines, message, tmp_path, capsys):
    assert splits(tmp_path, challenge, f"slide_id,label\n{lines}\n")[0] == 2
    assert message in capsys.readouterr().err


def test_a_patient_of_two_centres_is_refused(tmp_path, capsys):
    text = "slide_id,label,center\npatient_000_node_0,0,0\npatient_000_node_1,0,1\n"
    assert splits(tmp_path, "17", text)[0] == 2
    assert "patient patient_000 is of two centres" in capsys.readouterr().err


def test_faulty_lines_are_left_out_on_request(tmp_path, capsys):
    text = "slide_id,label\ntest_049,1\nnormal_002,0\n"
    _, rows = splits(tmp_path, "16", text, "--bad-data", "skip")
    assert [row["slide_id"] for row in rows] == ["normal_002"]
    assert "skipped: 1 problem(s)" in capsys.readouterr().out
