"""What the labels of a table of slides mean."""

import warnings

import pytest

from datamodules.mil.slide_labels import LabelOptions
from datamodules.mil.slide_table import read_slide_table
from structures import DataProblems


@pytest.fixture
def table(tmp_path):
    """Return a function that writes a table and reads it with `LabelOptions`."""

    def read(header, *lines, **options):
        path = tmp_path / "slides.csv"
        path.write_text("\n".join([header, *lines]) + "\n")
        return read_slide_table(path, LabelOptions(**options))

    return read


def labelled(table, *labels, **options):
    return table("slide_id,label", *(f"s{k},{v}" for k, v in enumerate(labels)), **options)


CONTINUOUS = [f".{10 + 3 * k}" for k in range(24)]


def test_continuous_labels_are_refused_by_the_name_of_the_column(table):
    with pytest.raises(DataProblems) as error:
        labelled(table, *CONTINUOUS)
    message = str(error.value)
    assert "slides.csv: column label has numbers such as .10, .13, .16, .19, .22, ..." in message
    assert "(24 slides, 24 different ones), which are no classes; write names of" in message
    with pytest.raises(DataProblems, match=r"column score has numbers such as 0\.5 \(1 slides"):
        table("slide_id,score", "a,0.5", "b,1", columns=["score"])


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["0.0", "1.0"], ("0.0", "1.0")),  # as a spreadsheet writes 0 and 1
        (["1e0", "nan"], ("1e0", "nan")),
        (["1.5", "x", "y"], ("1.5", "x", "y")),  # a name among names
        (["T1.5", "T2"], ("T1.5", "T2")),
    ],
)
def test_what_only_looks_like_a_number_is_a_name(table, labels, names):
    assert labelled(table, *labels)[0].class_names == names


def test_numbers_that_are_named_as_classes_are_classes(table):
    found, faults = labelled(table, "0.5", "1.5", "0.5", class_names=["0.5", "1.5"])
    assert faults == [] and found.labels.tolist() == [0, 1, 0]


@pytest.mark.parametrize("pair", [("Tumor", "tumor"), ("lymph node", "Lymph  Node")])
def test_names_that_differ_in_case_or_spaces_only_are_told(table, pair):
    with pytest.warns(UserWarning, match="differ only in case or spaces; write one") as told:
        found, _ = labelled(table, *pair, "normal", pair[1])
    assert len(found.class_names) == 3
    assert f"{pair[1]!r} (2 slides)" in str(told[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labelled(table, "tumor", "tumour", "normal")
        labelled(table, *pair, class_names=list(pair))


SLIDES = ["normal"] * 9 + ["tumor"] * 10


@pytest.mark.parametrize("name", ["tumuor", "tumour", "tumr", "Tunor", "utmor"])
def test_a_label_that_is_one_letter_off_in_a_single_slide_is_a_fault(table, name):
    found, faults = labelled(table, name, *SLIDES)
    assert found.class_names == ("normal", "tumor") and len(found.slide_ids) == 19
    (fault,) = faults
    assert (fault.item, fault.annotation) == ("s0", 2)
    assert fault.reason == f"label {name!r} (1 slide) is almost 'tumor' (10 slides)"
    assert fault.remedy.startswith("write 'tumor', or name all classes by --data.class_names")
    kept, faults = labelled(table, name, *SLIDES, class_names=sorted(["normal", "tumor", name]))
    assert faults == [] and len(kept.class_names) == 3


@pytest.mark.parametrize(
    "labels",
    [
        ["tumuor", "tumuor", *SLIDES],  # two slides
        ["tumuor", *SLIDES[1:-1]],  # nine slides of the class that would be meant
        ["tumor2", *SLIDES],  # more than letters
        ["tour", *SLIDES],  # two letters
        ["er", *["pr"] * 20],  # short
        ["stage1", *["stage2"] * 20],
        ["abnormal", *["normal"] * 20],
    ],
)
def test_a_rare_class_of_another_name_is_kept(table, labels):
    found, faults = labelled(table, *labels)
    assert faults == [] and found.class_names == tuple(sorted(set(labels)))


def test_a_mistyped_label_among_several_and_beside_one_class(table):
    found, faults = labelled(table, "node;tumuor", *["tumor;node"] * 10, ";")
    assert found.class_names == ("node", "tumor") and [p.item for p in faults] == ["s0"]
    with pytest.raises(DataProblems) as error:
        labelled(table, "tumuor", *["tumor"] * 10)
    assert "'tumuor' (1 slide) is almost 'tumor'" in str(error.value)
    assert "all slides have label 'tumor'; at least two" in str(error.value)


def test_several_classes_in_one_column(table):
    found, faults = labelled(table, "b;a", "c", ";", "a ; c", "b")
    assert faults == [] and found.class_names == ("a", "b", "c")
    assert found.labels.tolist() == [[1, 1, 0], [0, 0, 1], [0, 0, 0], [1, 0, 1], [0, 1, 0]]
    assert found.texts == ("b;a", "c", ";", "a ; c", "b") and found.label_columns == ("label",)
    numbers, _ = labelled(table, "0;1", "1", "0")
    assert numbers.class_names == ("0", "1") and numbers.labels.tolist() == [[1, 1], [0, 1], [1, 0]]
    single, _ = labelled(table, "a", "b", task="multilabel")
    assert single.labels.tolist() == [[1, 0], [0, 1]]
    known, _ = labelled(table, "1", "1;0", class_names=["c", "d"], task="multilabel")
    assert known.labels.tolist() == [[0, 1], [1, 1]]
    one, _ = labelled(table, "a;b", "c", task="multiclass")  # a name, as it was
    assert one.class_names == ("a;b", "c") and one.labels.tolist() == [0, 1]


def test_faults_of_several_classes_in_one_column(table):
    found, faults = labelled(table, "a;b", "", "a;x", "b", class_names=["a", "b"])
    assert found.slide_ids == ("s0", "s3")
    assert [(p.item, p.reason) for p in faults] == [
        ("s2", "label 'x' is not one of the 2 classes"),
        ("s1", "label is empty; write ; for a slide with none of the classes"),
    ]
    with pytest.raises(DataProblems, match="all slides have label 'a'; at least two classes"):
        labelled(table, "a;", "a")


HEADER, THREE = "slide_id,er,pr,her2", ["er", "pr", "her2"]


def test_a_column_for_each_class(table):
    found, faults = table(HEADER, "a,1,0,1", "b,0.0,1.0,0", "c,0,0,0", columns=THREE)
    assert faults == [] and found.class_names == ("er", "pr", "her2")
    assert found.labels.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert found.label_columns == ("er", "pr", "her2") and found.fields[1] == ("0.0", "1.0", "0")
    part, _ = table(HEADER, "a,1,0,1", "b,0,1,0", columns=["her2", "er"], class_names=["H", "E"])
    assert part.class_names == ("H", "E") and part.labels.tolist() == [[1, 1], [0, 0]]


def test_one_named_column_holds_names(table):
    found, _ = table("slide_id,diagnosis", "a,luad", "b,lusc", columns=["diagnosis"])
    assert found.class_names == ("luad", "lusc") and found.labels.tolist() == [0, 1]
    several, _ = table("slide_id,diagnosis", "a,luad;lusc", "b,lusc", columns=["diagnosis"])
    assert several.labels.tolist() == [[1, 1], [0, 1]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["er", "pgr", "her2"], r"column pgr of label_columns is missing; the file has .*; did yo"),
        (["x", "y"], "column x, y of label_columns is missing; the file has slide_id, er, pr, her"),
        (["diagnosis"], "column diagnosis of label_columns is missing"),
    ],
)
def test_a_missing_column_is_named(table, columns, message):
    with pytest.raises(DataProblems, match=message):
        table(HEADER, "a,1,0,1", "b,0,1,0", columns=columns)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": ["er", "er"]}, "label_columns names er twice"),
        ({"columns": THREE, "task": "multiclass"}, "does not fit the task multiclass; use multila"),
        ({"columns": THREE, "class_names": ["a", "b"]}, "3 label_columns, but 2 class_names"),
    ],
)
def test_columns_that_contradict_other_arguments(table, options, message):
    with pytest.raises(ValueError, match=message):
        table(HEADER, "a,1,0,1", "b,0,1,0", **options)


def test_columns_of_one_class_a_slide_or_without_a_class(table):
    with pytest.raises(DataProblems, match="every slide has exactly one of the classes er, pr, he"):
        table(HEADER, "a,1,0,0", "b,0,1,0", "c,0,0,1", columns=THREE)
    named, _ = table(HEADER, "a,1,0,0", "b,0,1,0", "c,0,0,1", columns=THREE, task="multilabel")
    assert named.labels.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    with pytest.raises(DataProblems, match="no slide has the class her2; leave the column out"):
        table(HEADER, "a,1,1,0", "b,0,1,0", columns=THREE)


def test_fields_that_are_not_0_or_1(table):
    found, faults = table(HEADER, "a,1,0,1", "b,2,1,0", "c,1,1,", "d,0,yes,0", columns=THREE)
    assert found.slide_ids == ("a",) and found.labels.tolist() == [[1, 0, 1]]
    assert [f"{p.item}: {p.reason}" for p in faults] == [
        "b: er is '2'",
        "c: her2 is empty",
        "d: pr is 'yes'",
    ]


def test_slides_without_labels_for_a_checkpoint_of_several_classes(table):
    known = {"class_names": ["er", "pr"], "task": "multilabel", "columns": ["er", "pr"]}
    bare, faults = table("slide_id", "a", "b", **known)
    assert faults == [] and bare.labels.tolist() == [[-1, -1], [-1, -1]]
    other, _ = table("slide_id,label", "a,er;pr", "b,pr", **known)  # in the other layout
    assert other.labels.tolist() == [[1, 1], [0, 1]]
    with pytest.raises(DataProblems, match="column pr of label_columns is missing"):
        table("slide_id,er", "a,1", **known)
