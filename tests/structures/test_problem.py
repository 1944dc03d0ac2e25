"""How the faults of a data set are told, and what becomes of them."""

import pickle
from pathlib import Path

import pytest

from structures import DataProblems, Problem, settle
from structures.problem import by_cause

FILE = Path("set") / "a.json"


def odd(number, file=FILE):
    return Problem(file, number, None, f"width {number} in '{number}.png' is odd", "make it even")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ((None, None), "set/a.json: is odd; make it even"),
        ((7, None), "set/a.json, image 7: is odd; make it even"),
        ((7, 0), "set/a.json, image 7, annotation 0: is odd; make it even"),
        ((None, 3), "set/a.json, annotation 3: is odd; make it even"),
    ],
)
def test_one_line_says_where_what_and_the_remedy(fields, text):
    assert str(Problem(FILE, *fields, "is odd", "make it even")) == text


def test_other_things_than_images_and_annotations():
    problem = Problem(FILE, "s1", 4, "is odd", "make it even", kind="slide", part="line")
    assert str(problem) == "set/a.json, slide s1, line 4: is odd; make it even"
    assert problem.to_dict() == {
        "file": "set/a.json",
        "item": "s1",
        "annotation": 4,
        "reason": "is odd",
        "remedy": "make it even",
        "kind": "slide",
        "part": "line",
    }


def strange(number):
    """Return problems of different causes."""
    return Problem(FILE, number, None, f"{'x' * (number + 1)} is odd", "make it even")


def test_an_error_lists_twenty_and_holds_all():
    with pytest.raises(DataProblems, match=r"and 13 more; `python evaluate.py check-data") as error:
        settle(map(strange, range(33)), "error")
    assert str(error.value).count("is odd") == 20
    assert len(error.value.problems) == 33
    with pytest.raises(DataProblems) as error:
        settle(map(strange, range(20)), "error")
    assert "more" not in str(error.value)


def test_more_than_three_of_one_cause_are_one_line_with_three_examples():
    assert len(str(DataProblems([odd(n) for n in range(3)])).splitlines()) == 3
    error = DataProblems([odd(0), strange(5), *map(odd, range(1, 262))])
    assert str(error).splitlines() == [
        "set/a.json: 262 x width ... in ... is odd, for example image 0 (width 0 in '0.png' is "
        "odd); image 1 (width 1 in '1.png' is odd); image 2 (width 2 in '2.png' is odd); make it "
        "even",
        str(strange(5)),
    ]
    assert len(error.problems) == 263
    lines = [
        Problem(Path(f"set/{n}.txt"), f"{n}.png", 3, "no class", "add it", part="line")
        for n in range(4)
    ]
    assert str(DataProblems(lines)) == (
        "set: 4 x no class, for example 0.txt, image 0.png, line 3; 1.txt, image 1.png, line 3; "
        "2.txt, image 2.png, line 3; add it"
    )
    assert [len(group) for group in by_cause([odd(1).mended("a"), *map(odd, range(4))])] == [1, 4]


def test_what_concerns_a_whole_file_is_shown_first():
    whole = Problem(FILE, None, None, "nothing is left", "fix some")
    mended = odd(40).mended("made even")
    error = DataProblems([mended, *map(strange, range(30)), whole])
    assert error.problems == (*map(strange, range(30)), whole)
    assert str(error).splitlines()[0] == "set/a.json: nothing is left; fix some"
    assert "and 11 more" in str(error)


def test_nothing_wrong_says_nothing(caplog):
    assert settle([], "error") == settle([], "skip") == ()
    assert caplog.text == ""


def test_skipping_counts_by_file_and_kind_of_reason(caplog):
    other = Problem(FILE, 1, 2, "bbox [1, 2, 0, 3] has no area", "redraw it")
    empty = Problem(FILE, 1, 2, "bbox [4, 5.5, 6, 0] has no area", "redraw it")
    found = settle([odd(3), other, odd(-4), empty, odd(5, Path("b.json"))], "skip")
    assert len(found) == 5
    assert [record.getMessage() for record in caplog.records] == [
        "set/a.json: 4 problem(s) skipped (2 x width ... in ... is odd; 2 x bbox ... has no area), "
        "the first: set/a.json, image 3: width 3 in '3.png' is odd; make it even",
        "b.json: 1 problem(s) skipped (1 x width ... in ... is odd), the first: b.json, image 5: "
        "width 5 in '5.png' is odd; make it even",
    ]


def test_many_files_do_not_flood_the_log(caplog):
    settle([odd(n, Path(f"{n}.h5")) for n in range(50)], "skip")
    assert len(caplog.records) == 21
    assert caplog.records[-1].getMessage() == "... and problems of 30 more files"


def test_problems_come_unharmed_out_of_another_process():
    problems = [odd(number) for number in range(30)]
    error = DataProblems(problems)
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) and again.problems == tuple(problems)


def test_repaired_records_are_counted_apart_with_a_few_examples(caplog):
    mended = [odd(number).mended("made even") for number in range(5)]
    found = settle([odd(9), *mended], "repair")
    assert [problem.repaired for problem in found] == [False, *[True] * 5]
    assert "1 problem(s) skipped" in caplog.text
    assert "5 problem(s) repaired (5 x width ... in ... is odd)" in caplog.text
    assert caplog.text.count("is odd; repaired: made even") == 3
    assert mended[0].to_dict()["repaired"] is True
    assert "repaired" not in odd(1).to_dict()
    assert odd(1).mendable().remedy == "make it even, or use bad_data: repair"


def slide(name, reason="no feature file in /data", line=None, file=None):
    path = file or Path("set") / "slides.csv"
    return Problem(path, name, line, reason, "extract it", kind="slide", part="line")


def test_one_fault_of_all_slides_is_one_line():
    message = str(DataProblems([slide(f"s{k}") for k in range(47)]))
    assert message == (
        "set/slides.csv: 47 x no feature file in /data, for example slide s0; slide s1; slide s2; "
        "extract it"
    )
    two = str(DataProblems([slide("a", line=4), slide("b", line=7)]))
    assert two == (
        "set/slides.csv: 2 x no feature file in /data, for example slide a, line 4; slide b, "
        "line 7; extract it"
    )
    assert str(DataProblems([slide("a")])) == str(slide("a"))


def test_reasons_that_differ_in_values_are_one_fault():
    wrong = [slide(f"s{k}", f"label '0.{k}' is not one of the 2 classes") for k in range(3)]
    assert str(DataProblems([*wrong, slide("t")])).splitlines() == [
        "set/slides.csv: 3 x label ... is not one of the ... classes, for example slide s0 (label "
        "'0.0' is not one of the 2 classes); slide s1 (label '0.1' is not one of the 2 classes); "
        "slide s2 (label '0.2' is not one of the 2 classes); extract it",
        str(slide("t")),
    ]


def test_files_of_a_folder_are_one_place_and_folders_and_tables_are_several():
    files = [slide(f"s{k}", "no data set 'features'", file=Path(f"h5/s{k}.h5")) for k in range(3)]
    other = slide("t", "no data set 'features'", file=Path("more/t.h5"))
    assert str(DataProblems([*files, other])).splitlines() == [
        "h5: 3 x no data set 'features', for example s0.h5, slide s0; s1.h5, slide s1; s2.h5, "
        "slide s2; extract it",
        "more/t.h5, slide t: no data set 'features'; extract it",
    ]
    tables = [slide("s0", f"is only in {b}", file=Path(a)) for a, b in (("1.csv", "2.csv"),) * 2]
    assert (
        len(
            str(
                DataProblems([*tables, slide("t", "is only in 1.csv", file=Path("2.csv"))])
            ).splitlines()
        )
        == 2
    )


def test_images_stay_apart_and_skipped_slides_are_one_entry_of_the_log(caplog):
    assert len(str(DataProblems([odd(1), odd(2)])).splitlines()) == 2
    files = [slide(f"s{k}", "no data set 'features'", file=Path(f"h5/s{k}.h5")) for k in range(30)]
    assert len(settle(files, "skip")) == 30
    assert [record.getMessage() for record in caplog.records] == [
        "h5: 30 problem(s) skipped (30 x no data set ...), the first: h5/s0.h5, slide s0: no data "
        "set 'features'; extract it"
    ]
