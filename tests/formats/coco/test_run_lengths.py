"""Many texts at once give what `rle.from_bytes` gives one by one."""

import numpy as np
import pytest

from formats.coco.run_lengths import covered_pixels
from structures import rle


def one_by_one(text):
    try:
        return int(rle.from_bytes(text).sum())
    except ValueError:
        return -1


def test_by_hand():
    # "5" = 5, "3" = 3, "`0" = 16 in two groups: 5 + 3 + 16; "53@" breaks off is 3 texts further on
    assert covered_pixels(["53`0", "", "5 @", "53`", "5"]).tolist() == [24, 0, -1, -1, 5]
    assert covered_pixels([]).tolist() == []
    # 12 groups of 5 bits are the most: here 11 of zeros, then 1 = 2 ** 55
    longest = ["P" * 11 + "1", "P" * 12 + "1"]
    assert covered_pixels(longest).tolist() == [2**55, -1]
    assert [one_by_one(text) for text in longest] == [2**55, -1]
    assert covered_pixels(["", ""]).tolist() == [0, 0]


@pytest.mark.parametrize("seed", range(3))
def test_random_and_damaged_texts(seed):
    rng = np.random.default_rng(seed)
    texts = []
    for number in range(1500):
        largest = [3, 1000, 10**7][number % 3]
        text = rle.to_bytes(rng.integers(0, largest, rng.integers(0, 25))).decode()
        place = int(rng.integers(len(text))) if text else 0
        texts.append(
            [
                text,
                text[:-1],  # may break off in the middle of a number
                text[:place] + chr(rng.integers(30, 130)) + text[place + 1 :],
                text + chr(80) * 14 + "1",  # a number of more than 60 bits
                text + "\u00e9",
                "O" + text,  # begins with -1
                text,
            ][number % 7]
        )
    expected = [one_by_one(text) for text in texts]
    assert covered_pixels(texts).tolist() == expected
    assert 200 < expected.count(-1) < 1300


def test_a_broken_text_does_not_reach_into_its_neighbours():
    good = rle.to_bytes(np.array([4, 6, 90])).decode()
    assert covered_pixels([good, "p", good, "\ud800", good]).tolist() == [100, -1, 100, -1, 100]


def test_chunks_are_joined_in_order(monkeypatch):
    texts = [rle.to_bytes(np.array([k, 1])).decode() for k in range(100)]
    monkeypatch.setattr("formats.coco.run_lengths._CHARACTERS", 7)
    assert covered_pixels(texts).tolist() == [k + 1 for k in range(100)]
