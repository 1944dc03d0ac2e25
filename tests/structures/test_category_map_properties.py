"""CategoryMap is a bijection that does not depend on the order of a file."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from structures import CategoryMap

NAMES = st.text("abc é0", min_size=1, max_size=4)
IDS = st.integers(0, 2000)
# id -> name, no name twice
CATEGORIES = st.dictionaries(IDS, NAMES, max_size=8).map(
    lambda names: {i: n for i, n in names.items() if list(names.values()).count(n) == 1}
)


def records(names):
    return [{"id": i, "name": n} for i, n in names.items()]


@given(CATEGORIES, st.integers(0, 9))
def test_labels_follow_ids_whatever_the_order(names, seed):
    shuffled = records(names)
    random.Random(seed).shuffle(shuffled)
    table = CategoryMap.from_coco(shuffled)
    assert table == CategoryMap.from_coco(records(names))
    assert list(table.ids) == sorted(names)
    assert [names[i] for i in table.ids] == list(table.names)
    for label, category in enumerate(table.ids):
        assert table.label(category) == table.labels()[category] == label
    assert sorted(table.labels().values()) == list(range(len(names)))


@given(CATEGORIES)
def test_every_way_out_leads_back(names):
    table = CategoryMap.from_coco(records(names))
    assert CategoryMap.from_dict(json.loads(json.dumps(table.to_dict()))) == table
    assert CategoryMap.from_coco(table.to_coco()) == table


@given(CATEGORIES, IDS)
def test_unknown_ids_are_refused(names, other):
    table = CategoryMap.from_coco(records(names))
    if other in names:
        assert table.ids[table.label(other)] == other
    else:
        with pytest.raises(ValueError, match=f"unknown category id {other}"):
            table.label(other)


@given(CATEGORIES, st.data())
def test_keeping_some(names, data):
    wanted = data.draw(st.lists(st.sampled_from(sorted(names.values()) or ["x"]), unique=True))
    table = CategoryMap.from_coco(records(names))
    if not set(wanted) <= set(names.values()):
        with pytest.raises(ValueError, match="not in the file"):
            CategoryMap.from_coco(records(names), wanted)
        return
    kept = CategoryMap.from_coco(records(names), wanted)
    assert set(kept.names) == set(wanted)
    assert list(kept.ids) == [i for i in table.ids if names[i] in wanted]
    table.check_same(kept, "all", "some")  # a file may lack categories


@given(CATEGORIES, CATEGORIES)
def test_two_files_agree_exactly_where_no_id_means_something_else(ours, theirs):
    one, two = CategoryMap.from_coco(records(ours)), CategoryMap.from_coco(records(theirs))
    agree = all(ours.get(i) == n for i, n in theirs.items())
    if agree:
        one.check_same(two, "one", "two")
    else:
        with pytest.raises(ValueError, match="category maps differ"):
            one.check_same(two, "one", "two")


@given(st.lists(st.tuples(IDS, NAMES), max_size=5))
def test_repeated_ids_or_names_are_refused(pairs):
    ids, names = [i for i, _ in pairs], [n for _, n in pairs]
    if len(set(ids)) == len(ids) and len(set(names)) == len(names):
        assert len(CategoryMap(tuple(ids), tuple(names))) == len(pairs)
    else:
        with pytest.raises(ValueError, match="occurs twice"):
            CategoryMap(tuple(ids), tuple(names))
