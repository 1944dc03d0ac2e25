"""Categories that nothing uses: which are left out, and which are classes all the same."""

from pathlib import Path

import pytest

from formats.coco.categories import (
    case_problems,
    left_out_note,
    name_problems,
    unused_root,
    used_counts,
)

FILE = Path("instances.json")
ROOT = {"id": 0, "name": "fruit", "supercategory": "none"}
APPLE = {"id": 1, "name": "apple", "supercategory": "fruit"}
FIG = {"id": 2, "name": "fig", "supercategory": "fruit"}


def test_counts_ignore_faulty_records():
    faulty = [{"category_id": [3]}, {}, 4, {"category_id": None}]
    assert used_counts([{"category_id": 3}, *faulty]) == {3: 1}


@pytest.mark.parametrize(
    ("categories", "used", "found"),
    [
        ([ROOT, APPLE, FIG], {1, 2}, True),
        ([APPLE, FIG, ROOT], set(), True),
        ([ROOT, APPLE, FIG], {0, 1}, False),  # used
        ([ROOT | {"id": 9}, APPLE, FIG], {1}, False),  # another number
        ([ROOT, APPLE | {"supercategory": "tree"}], {1}, False),  # groups nothing
        ([{"id": 0, "name": "cat", "supercategory": "cat"}, APPLE], {1}, False),  # its own
        ([{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}], {1}, False),
        ([], set(), False),
    ],
)
def test_the_root_is_left_out_only_where_it_groups_others_and_is_unused(categories, used, found):
    assert (unused_root(categories, used) is not None) == found


@pytest.mark.parametrize(
    ("used", "faults", "spare"),
    [({1, 4}, 1, []), ({1}, 0, [4]), ({4}, 0, [1]), (set(), 0, [1, 4])],
)
def test_a_name_twice_is_a_fault_only_where_both_are_used(used, faults, spare):
    problems, left = name_problems(FILE, [APPLE, FIG, APPLE | {"id": 4}], used)
    assert len(problems) == faults
    assert [category["id"] for category in left] == spare
    if problems:
        assert "'apple' occurs twice, with the ids [1, 4]" in problems[0].reason


def test_the_note_names_what_is_left_out():
    text = left_out_note(FILE, [ROOT])
    assert text == "instances.json: category 0 ('fruit') has no annotation and is left out"


@pytest.mark.parametrize(
    ("names", "counts", "told"),
    [
        (("Cat", "cat"), {1: 3, 2: 5}, "'Cat' (3 annotations) and 'cat' (5 annotations)"),
        (("big cat", "Big  Cat "), {1: 1, 2: 1}, "'big cat' (1 annotations) and 'Big  Cat '"),
        (("Cat", "cat"), {1: 3}, None),  # the other is used by nothing
        (("a", "A"), {1: 3, 2: 5}, None),  # letters
        (("cat", "cats"), {1: 3, 2: 5}, None),
    ],
)
def test_names_that_differ_in_case_only(names, counts, told):
    categories = [{"id": n, "name": name} for n, name in enumerate(names, start=1)]
    found = case_problems(FILE, categories, counts)
    assert bool(found) == (told is not None)
    assert told is None or told in found[0].reason
