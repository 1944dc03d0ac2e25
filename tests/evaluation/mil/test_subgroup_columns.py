"""Columns of tables and how their values find the bags."""

import pytest

from evaluation.mil.subgroup_columns import (
    bag_values,
    check_values,
    patient_values,
    read_columns,
    table_with,
)
from structures import DataProblems


@pytest.fixture
def write(tmp_path):
    def written(text, name="t.csv", **options):
        path = tmp_path / name
        path.write_text(text)
        return read_columns(path, **options)

    return written


BAGS, PATIENTS = ("a", "b", "c"), ("p", "p", "q")


def test_bags_are_found_by_the_first_column_that_names_one(write):
    table = write("slide_id, site ,patient_id\na, X ,p\nb,,p\nz,Y,q\n")
    found = bag_values(table, "site", BAGS, PATIENTS)
    assert found == ({"a": "X", "b": "", "c": ""}, "slide_id", 1)
    # Slides of other names: the patients name the bags, or are the bags.
    other = write("slide_id,site,case_id\n1,X,p\n2,X,p\n3,,q\n4,Y,q\n")
    for bags, patients in ((BAGS, PATIENTS), (("p", "q"), ()), (("p", "q"), ("p", "q"))):
        values, key, missing = bag_values(other, "site", bags, patients)
        assert list(values.values()) == ["X", "X", "Y"][3 - len(bags) :]
        assert (key, missing) == ("case_id", 0)
    with pytest.raises(ValueError, match="none of the 1 bags is named in the column slide_id or"):
        bag_values(other, "site", ("unknown",))


def test_lines_that_contradict_are_refused(write):
    table = write("patient_id,site\np,X\np,Y\nq,X\nz,X\nz,Y\n")
    with pytest.raises(DataProblems, match="patient p: lines with the values X, Y of site; write"):
        bag_values(table, "site", BAGS, PATIENTS)


def test_a_table_of_predictions_takes_the_first_line_of_a_bag(write):
    table = write("bag_id,label,score,site\na,1,0.5,X\na,1,0.5,Y\n b,0,0.1,Z\n", predictions=True)
    assert bag_values(table, "site", ("a", " b")).values == {"a": "X", " b": "Z"}


def test_patients_have_one_value(write, tmp_path):
    values = {"a": "X", "b": "", "c": "Y", "d": "Y"}
    found = patient_values(tmp_path, "site", values, ("p", "p", "q", "q"))
    assert found == {"p": "X", "q": "Y"}
    with pytest.raises(DataProblems, match=r"patient p: bags with the values X \(a\), Y \(c, d\)"):
        patient_values(tmp_path, "site", values, ("p", "p", "p", "p"))


def test_unknown_columns_list_those_there_are(write):
    table = write("bag_id,site\na,X\n")
    second = write("slide_id,Scanner\na,1\n", "u.csv")
    assert table_with("Scanner", [table, second]) is second
    listed = r"t\.csv has bag_id, site; .*u\.csv has slide_id, Scanner; did you mean 'Scanner'"
    with pytest.raises(ValueError, match=listed):
        table_with("scaner", [table, second])
    with pytest.raises(ValueError, match=r"name one by --table T\.csv"):
        table_with("site", [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("site\nX\n", "has no column of bags, slides or patients; name them"),
        ("bag_id,site,site\na,X,X\n", "column 'site' occurs twice"),
        ("bag_id,site\n", "no lines in the file"),
    ],
)
def test_what_is_no_table_is_refused(write, text, message):
    with pytest.raises(DataProblems, match=message):
        write(text)


def test_columns_that_make_no_subgroups_are_refused(tmp_path):
    check_values(tmp_path, "year", [*map(str, range(2000, 2020)), ""])
    check_values(tmp_path, "site", [f"s{n}" for n in range(50)])
    with pytest.raises(ValueError, match="column age has 21 different numbers; put them into bins"):
        check_values(tmp_path, "age", list(map(str, range(21))))
    with pytest.raises(ValueError, match="51 different values for 51 bags; name a column"):
        check_values(tmp_path, "slide", [f"s{n}" for n in range(51)])
    with pytest.raises(ValueError, match="column site is empty for all bags"):
        check_values(tmp_path, "site", ["", ""])
