"""Category ids with gaps, id 0, subsets and files that disagree."""

import pytest

from structures import CategoryMap

CATEGORIES = [{"id": 11, "name": "cup"}, {"id": 5, "name": "dog"}, {"id": 8, "name": "car"}]


def test_labels_follow_sorted_ids_whatever_the_order_in_the_file():
    shuffled = CategoryMap.from_coco(CATEGORIES)
    assert shuffled == CategoryMap.from_coco(CATEGORIES[::-1])
    assert shuffled.ids == (5, 8, 11)
    assert shuffled.names == ("dog", "car", "cup")
    assert [shuffled.label(i) for i in (5, 8, 11)] == [0, 1, 2]
    assert shuffled.labels() == {5: 0, 8: 1, 11: 2}


def test_id_zero_is_a_category_like_any_other():
    with_zero = CategoryMap.from_coco([{"id": 0, "name": "a"}, {"id": 1203, "name": "b"}])
    assert with_zero.label(0) == 0
    assert with_zero.label(1203) == 1


def test_subset_by_name_keeps_the_ids():
    assert CategoryMap.from_coco(CATEGORIES, keep=["cup", "dog"]).ids == (5, 11)
    with pytest.raises(ValueError, match=r"\['cat'\] are not in the file"):
        CategoryMap.from_coco(CATEGORIES, keep=["cat"])


def test_a_second_file_may_lack_but_not_rename_categories():
    ours = CategoryMap.from_coco(CATEGORIES)
    ours.check_same(CategoryMap((8,), ("car",)), "train.json", "val.json")
    with pytest.raises(ValueError, match="id 8 is 'bus' in val.json and 'car' in train.json"):
        ours.check_same(CategoryMap((8,), ("bus",)), "train.json", "val.json")
    with pytest.raises(ValueError, match="id 9 is 'cat' in val.json and 'absent'"):
        ours.check_same(CategoryMap((9,), ("cat",)), "train.json", "val.json")


def test_round_trips():
    ours = CategoryMap.from_coco(CATEGORIES)
    assert CategoryMap.from_dict(ours.to_dict()) == ours
    assert CategoryMap.from_coco(ours.to_coco()) == ours
    assert len(ours) == 3
    assert CategoryMap.class_agnostic().names == ("object",)


@pytest.mark.parametrize(
    ("ids", "names", "message"),
    [
        ((1, 1), ("a", "b"), "category id 1 occurs twice"),
        ((1, 2), ("a", "a"), "category name a occurs twice"),
        ((1,), ("a", "b"), "1 category ids but 2 names"),
    ],
)
def test_ambiguous_maps_are_refused(ids, names, message):
    with pytest.raises(ValueError, match=message):
        CategoryMap(ids, names)


def test_unknown_id_is_named():
    with pytest.raises(ValueError, match="unknown category id 7"):
        CategoryMap.from_coco(CATEGORIES).label(7)
