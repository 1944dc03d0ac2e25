import numpy as np
import pytest

from datamodules.mil.slide_labels import LabelOptions
from datamodules.mil.slide_table import find_feature_files, read_slide_table
from structures import DataProblems


@pytest.fixture
def table(tmp_path):
    """Return a function that writes lines and reads them as a table."""

    def read(*lines, class_names=None, **options):
        path = tmp_path / "slides.csv"
        path.write_text("\n".join(lines) + "\n", **options)
        return read_slide_table(path, LabelOptions(class_names))

    return read


def test_all_columns(table):
    found, faults = table(
        "label,fold,slide_id,case_id,weight,stain,split",
        "tumor,0,a,p,2.5,HE,train",
        '"normal",3,"b, left",q,0,IHC,Val',
        "tumor,1,c,p,1e1,,train",
    )
    assert faults == []
    assert found.slide_ids == ("a", "b, left", "c") and found.patients == ("p", "q", "p")
    assert found.class_names == ("normal", "tumor") and found.labels.tolist() == [1, 0, 1]
    assert found.texts == ("tumor", "normal", "tumor")
    assert found.splits == ("train", "val", "train") and found.folds.tolist() == [0, 3, 1]
    assert found.weights.tolist() == [2.5, 0, 10]


def test_the_shortest_table(table):
    found, faults = table("slide_id", "a", "b", encoding="utf-8-sig")
    assert faults == [] and found.slide_ids == ("a", "b")
    assert found.labels.tolist() == [-1, -1] and found.class_names == ()
    assert (found.patients, found.splits, found.folds, found.weights) == ((), (), None, None)


@pytest.mark.parametrize(
    ("labels", "given", "names", "expected"),
    [
        (["1", "0"], None, ("negative", "positive"), [1, 0]),
        (["0", "0"], None, ("negative", "positive"), [0, 0]),
        (["2", "0", "1"], None, ("0", "1", "2"), [2, 0, 1]),
        (["b", "a", "c"], None, ("a", "b", "c"), [1, 0, 2]),
        (["1", "x"], None, ("1", "x"), [0, 1]),
        (["b", "b"], ["a", "b", "c"], ("a", "b", "c"), [1, 1]),
        (["2", "01"], ["a", "b", "c"], ("a", "b", "c"), [2, 1]),
        (["4", "8"], ["8", "4"], ("8", "4"), [1, 0]),
    ],
)
def test_classes(table, labels, given, names, expected):
    lines = [f"s{i},{label}" for i, label in enumerate(labels)]
    found, faults = table("slide_id,label", *lines, class_names=given)
    assert faults == [] and found.class_names == names and found.labels.tolist() == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (",p,0,train,1,1", "line 4: slide_id is empty; name the slide"),
        ("a,p,0,train,1,1", "slide a, line 4: the slide is also in line 2"),
        ("c,,0,train,1,1", "slide c, line 4: patient_id is empty"),
        ("c,p,5,train,1,1", "slide c, line 4: label '5' is not one of the 2 classes; use negative"),
        ("c,p,,train,1,1", "slide c, line 4: label is empty"),
        ("c,p,0,valid,1,1", "slide c, line 4: split is 'valid'; use train, val, test"),
        ("c,p,0,train,-1,1", "slide c, line 4: fold is '-1'"),
        ("c,p,0,train,1,nan", "slide c, line 4: weight is 'nan'"),
        ("c,p,0,train,1,-2", "slide c, line 4: weight is '-2'"),
        ("c,p,0,train,1,1,9,9", "slide c, line 4: more fields than columns: 9"),
        ("c,p,0", "slide c, line 4: split is ''"),
    ],
)
def test_faulty_lines_are_named_and_left_out(table, line, message):
    found, faults = table(
        "slide_id,patient_id,label,split,fold,weight",
        "a,p,0,train,0,1",
        "b,p,1,train,0,1",
        line,
        "z,r,1,test,1,1",
    )
    assert any(message in str(fault) for fault in faults)
    assert {fault.annotation for fault in faults} == {4}
    assert found.slide_ids == ("a", "b", "z") and found.labels.tolist() == [0, 1, 1]


def test_every_fault_of_a_table_is_told(table):
    _, faults = table("slide_id,label,fold", "a,0,0", "a,1,x", "b,9,0", ",1,1")
    assert [fault.annotation for fault in faults] == [3, 5, 3, 4]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["slide,label", "a,0"],
            "the file has slide, label; rename column slide to slide_id",
        ),
        (["slide_id,label"], "no slide in the file"),
        ([""], "column slide_id is missing; the file has none"),
        (["slide_id,label,label", "a,0,0"], "column 'label' occurs twice"),
        (["slide_id,case_id,patient_id", "a,0,0"], "column 'patient_id' occurs twice"),
        (["slide_id,label", "a,x", "b,x"], "all slides have label 'x'; at least two classes"),
        (["slide_id,label", 'a,"x'], "cannot be read as CSV"),
    ],
)
def test_unusable_tables(table, lines, message):
    with pytest.raises(DataProblems, match=message):
        table(*lines)


def test_files_that_are_no_text(tmp_path):
    with pytest.raises(DataProblems, match=r"absent\.csv: no such file"):
        read_slide_table(tmp_path / "absent.csv")
    (tmp_path / "a.csv").write_bytes(b"slide_id\n\xff\xfe\x00")
    with pytest.raises(DataProblems, match="save it as UTF-8"):
        read_slide_table(tmp_path / "a.csv")


def test_layouts_of_feature_folders(tmp_path):
    for name in (
        "a.npy", "h5_files/b.h5", "pt_files/b.pt", "pt_files/c.svs.pt", "pt_files/d.pt",
        "e.v2.safetensors", "npy_files/a.npy", "f.txt", "g.npy", "h5_files/g.h5",
    ):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    wanted = ["a", "b.svs", "c.svs", "d.ndpi", "e.v2", "f", "g", "a.npy"]
    found = find_feature_files(tmp_path, wanted)
    names = {slide: str(file.relative_to(tmp_path)) for slide, file in found.items()}
    assert names == {
        "a": "a.npy", "b.svs": "h5_files/b.h5", "c.svs": "pt_files/c.svs.pt",
        "d.ndpi": "pt_files/d.pt", "e.v2": "e.v2.safetensors", "g": "h5_files/g.h5",
    }  # fmt: skip
    with pytest.raises(DataProblems, match="nowhere: no such folder"):
        find_feature_files(tmp_path / "nowhere", wanted)


@pytest.mark.parametrize(("name", "classes"), [("camelyon16", 2), ("camelyon17", 4)])
def test_published_tables_are_read(shared_data, name, classes):
    path = shared_data("wsi_labels") / f"{name}.csv"
    found, faults = read_slide_table(path)
    assert faults == [] and len(found.class_names) == classes
    lines = path.read_text().splitlines()
    column = lines[0].split(",").index("label")
    assert found.labels.tolist() == [int(line.split(",")[column]) for line in lines[1:]]
    assert np.unique(found.labels).size == classes
