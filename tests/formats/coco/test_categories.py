"""Categories that nothing uses: which are left out, and which are classes all the same."""

from pathlib import Path

import pytest

from formats.coco.categories import left_out_note, name_problems, unused_root, used_ids

FILE = Path("instances.json")
ROOT = {"id": 0, "name": "fruit", "supercategory": "none"}
APPLE = {"id": 1, "name": "apple", "supercategory": "fruit"}
FIG = {"id": 2, "name": "fig", "supercategory": "fruit"}


def test_used_ids_ignore_faulty_records():
    assert used_ids([{"category_id": 3}, {"category_id": [3]}, {}, 4, {"category_id": None}]) == {3}


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
