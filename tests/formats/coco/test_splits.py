"""Known and novel categories: the shipped splits, files, ids and names."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from formats.coco.splits import (
    SHIPPED,
    check_both,
    find_split,
    fitted,
    read_split,
    shipped_split,
    split_from_record,
)

LISTS = Path(__file__).resolve().parents[4] / "shared" / "specs" / "splits"
CATEGORIES = [{"id": 1, "name": "person"}, {"id": 8, "name": "truck"}, {"id": 17, "name": "cat"}]


def published(file):
    if not (LISTS / file).is_file():
        pytest.skip(f"{file} is not beside this checkout (../shared/specs/splits)")
    return json.loads((LISTS / file).read_text())


def test_lvis_ow_follows_from_its_rule():
    split, listed = shipped_split("lvis-ow"), published("lvis_ow.json")
    for kind in ("known", "seen", "unseen"):
        assert getattr(split, kind) == tuple(sorted(listed[kind]))


def test_the_other_lists_are_the_published_ones():
    assert shipped_split("voc").known == tuple(published("coco_voc.json")["voc_ids"])
    objects = published("objects365_v2.json")["ldet_known_ids"]
    assert shipped_split("coco-objects365").known == tuple(sorted(objects))
    mapped = {row[3] for row in published("coco_to_lvis.json")["mapping"] if row[3] is not None}
    assert set(shipped_split("coco-lvis").known) == mapped


def test_sizes_and_hashes():
    sizes = {name: len(shipped_split(name).known) for name in SHIPPED}
    assert sizes == {
        **{"voc": 20, "coco-uvo": 80, "coco-objects365": 80, "coco-lvis": 79},
        **{"coco-lvis-detic": 80, "lvis-ow": 123},
    }
    assert len({shipped_split(name).sha256 for name in SHIPPED}) == len(SHIPPED)
    sausage = set(shipped_split("coco-lvis-detic").known) - set(shipped_split("coco-lvis").known)
    assert sausage == {916}


def test_a_shipped_split_is_reduced_to_the_categories_of_the_data():
    split = find_split(["voc"], CATEGORIES, "a.json")
    assert (split.name, split.known, split.novel(CATEGORIES)) == ("voc", (1, 17), (8,))


def test_ids_names_and_files_mean_the_same(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"name": "mine", "known": [17, 1], "seen": [8]}))
    by_file = find_split([str(file)], CATEGORIES, "a.json")
    assert (by_file.name, by_file.seen, by_file.unseen) == ("mine", (8,), None)
    by_ids = find_split([1, "17"], CATEGORIES, "a.json")
    by_names = find_split(["cat", "person"], CATEGORIES, "a.json")
    assert by_ids.known == by_names.known == by_file.known == (1, 17)
    assert by_ids.sha256 == by_names.sha256 != by_file.sha256  # which also says what was seen


def test_a_few_names_may_be_spelt_otherwise():
    renamed = [dict(CATEGORIES[0], name="human"), *CATEGORIES[1:], {"id": 2, "name": "Bicycle"}]
    assert find_split(["voc"], renamed, "a.json").known == (1, 2, 17)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["vok"], r"known: 'vok' is no split \(voc, .*no category of a.json; did you mean 'voc'"),
        (["dog"], "'dog' is no split"),
        ([1, 5], "the known ids: category id 5 is not in a.json, which has 3 categories with ids"),
    ],
)
def test_words_that_mean_nothing_are_named(words, message):
    with pytest.raises(ValueError, match=message):
        find_split(words, CATEGORIES, "a.json")


def test_a_split_of_other_ids_is_refused():
    with pytest.raises(ValueError, match="category id 3 is 'airplane' there and 'car' in a.json"):
        find_split(["lvis-ow"], [{"id": 3, "name": "car"}, {"id": 12, "name": "sign"}], "a.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "not a split; write"),
        ({"known": [1]}, "not a split; write"),
        ({"name": "a"}, "'known' is not a list of category ids"),
        ({"name": "a", "known": ["cat"]}, "'known' is not a list of category ids"),
        ({"name": "a", "known": [1], "unseen": [8, 1]}, "id 1 is in 'known' and in 'unseen'"),
    ],
)
def test_files_that_are_no_split_are_named(content, message, tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"mine.json: .*{message}"):
        read_split(file)
    with pytest.raises(ValueError, match="no such file"):
        read_split(tmp_path / "other.json")


def test_something_known_and_something_novel_are_needed():
    with pytest.raises(ValueError, match="all 3 categories of a.json are known"):
        check_both(find_split([1, 8, 17], CATEGORIES, "a.json"), CATEGORIES, "a.json")
    trucks = [CATEGORIES[1]]
    with pytest.raises(ValueError, match="none of the known categories is in a.json"):
        check_both(find_split(["voc"], trucks, "a.json"), trucks, "a.json")


def test_a_checkpoint_keeps_the_names_of_its_split():
    split = replace(find_split([1, 17], CATEGORIES, "a.json"), names={1: "person", 17: "cat"})
    content = json.loads(json.dumps(split.content()))
    read = split_from_record(content, "last.ckpt")
    assert (read, read.names) == (split, split.names)
    assert shipped_split("lvis-ow").content().keys() == {
        "name", "known", "seen", "unseen", "names",
    }  # fmt: skip
    renamed = {1: "tree", 17: "moss"}
    with pytest.raises(ValueError, match="category id 1 is 'person' there and 'tree' in b.json"):
        fitted(read, renamed, "b.json")
    assert fitted(read, {17: "cat", 3: "car"}, "b.json").known == (17,)
