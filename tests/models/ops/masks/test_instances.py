import torch

from models.ops.masks.instances import (
    ceil_share,
    extreme_instances,
    floor_share,
    keep_one,
    random_instances,
)

OFFSETS = torch.tensor([0, 4, 5, 7])


def chosen(mask):
    return mask.nonzero().flatten().tolist()


def test_shares_are_those_of_exact_arithmetic():
    sizes = torch.tensor([1, 2, 7, 50, 100, 100_000])
    # 100 x 0.07 is 7.000000000000001 in floating point, 100 x 0.29 is 28.999999999999996
    assert ceil_share(sizes, 0.07).tolist() == [1, 1, 1, 4, 7, 7000]
    assert floor_share(sizes, 0.29).tolist() == [0, 0, 2, 14, 29, 29_000]
    assert ceil_share(sizes, 0.0).tolist() == [0] * 6
    assert ceil_share(sizes, 1.0).tolist() == floor_share(sizes, 1.0).tolist() == sizes.tolist()
    assert ceil_share(sizes, 1e-5).tolist() == [1] * 6
    assert ceil_share(sizes, 4e-10).tolist() == [0] * 6  # shares are whole billionths
    assert ceil_share(sizes, 6e-10).tolist() == [1] * 6


def test_one_score_an_instance():
    scores = torch.tensor([0.1, 0.4, 0.2, 0.3, 0.9, 0.5, 0.5])
    counts = torch.tensor([2, 1, 1])
    assert chosen(extreme_instances(scores, OFFSETS, counts)) == [1, 3, 4, 5]
    assert chosen(extreme_instances(scores, OFFSETS, counts, largest=False)) == [0, 2, 4, 5]
    assert chosen(extreme_instances(scores, OFFSETS, torch.tensor([0, 0, 2]))) == [5, 6]


def test_votes_of_three_heads_by_hand():
    # k = 2. Heads vote for {0, 1}, {1, 2} and {1, 3}: instance 1 has three votes; 0, 2 and 3 have
    # one each and means .3, .4 and .2, so that 2 is taken. For the smallest, heads vote for
    # {2, 3}, {0, 3} and {0, 2}, two votes each: the smallest mean is that of 3, then that of 0.
    scores = torch.tensor([[0.9, 0.0, 0.0], [0.8, 0.9, 0.6], [0.2, 0.8, 0.2], [0.0, 0.1, 0.5]])
    offsets, two = torch.tensor([0, 4]), torch.tensor([2])
    assert chosen(extreme_instances(scores, offsets, two)) == [1, 2]
    assert chosen(extreme_instances(scores, offsets, two, largest=False)) == [0, 3]
    assert chosen(extreme_instances(scores, offsets, torch.tensor([0]))) == []


def test_votes_count_whatever_the_mean():
    # k = 2: the first two heads vote for 0 beside 1 and 2, the third for 3 and 4. Instance 0 has
    # two votes and the smallest mean of all; of those with one vote 1 has the largest.
    scores = torch.full((6, 3), 4.9)
    scores[0] = torch.tensor([5.0, 5.0, 0.0])
    scores[[1, 2, 3, 4], [0, 1, 2, 2]] = torch.tensor([9.5, 9.0, 9.0, 9.0])
    assert chosen(extreme_instances(scores, torch.tensor([0, 6]), torch.tensor([2]))) == [0, 1]


def test_votes_count_within_a_bag():
    first = torch.tensor([[0.9, 0.0, 0.0], [0.8, 0.9, 0.6], [0.2, 0.8, 0.2], [0.0, 0.1, 0.5]])
    scores = torch.cat([first, 9 * torch.ones(1, 3), torch.tensor([[1.0, 2, 3], [3, 2, 1.5]])])
    # of the last bag one: votes 1 : 2 with the first head for the second instance and the tie of
    # the second head for the earlier one, so 1 (heads 2 and 3) against 2 (head 1)
    assert chosen(extreme_instances(scores, OFFSETS, torch.tensor([2, 1, 1]))) == [1, 2, 4, 5]


def test_heads_choose_a_part_each_and_all_of_it_counts():
    # k = 4 and two heads choose k // 2 = 2 each: {0, 1} and {1, 4}
    scores = torch.tensor([[0.9, 0.0], [0.8, 0.9], [0.2, 0.3], [0.0, 0.1], [0.1, 0.8]])
    offsets = torch.tensor([0, 5])
    chose = extreme_instances(scores, offsets, torch.tensor([4]), fusion="mean")
    assert chosen(chose) == [0, 1, 4]
    # the smallest: {3, 4} and {0, 3}
    chose = extreme_instances(scores, offsets, torch.tensor([4]), False, fusion="mean")
    assert chosen(chose) == [0, 3, 4]
    # fewer than heads: each chooses none
    assert chosen(extreme_instances(scores, offsets, torch.tensor([1]), fusion="mean")) == []


def test_random_choice_is_the_first_in_the_order_of_the_candidates():
    order = torch.tensor([5, -7, 3, 9, 0, 2, 1])
    candidates = torch.tensor([True, False, True, True, True, True, False])
    pick = random_instances(candidates, order, OFFSETS, torch.tensor([2, 1, 1]))
    assert chosen(pick) == [0, 2, 4, 5]
    # more than there are candidates: all of them, and nothing else
    assert chosen(random_instances(candidates, order, OFFSETS, torch.tensor([4, 9, 2]))) == [
        0, 2, 3, 4, 5,
    ]  # fmt: skip
    assert chosen(random_instances(candidates, order, OFFSETS, torch.tensor([0, 0, 0]))) == []


def test_a_bag_that_lost_all_gets_its_best_back():
    scores = torch.tensor([0.1, 0.4, 0.2, 0.3, 0.9, 0.5, 0.6])
    kept = torch.tensor([False, False, False, True, False, False, False])
    assert chosen(keep_one(kept, scores, OFFSETS)) == [3, 4, 6]
    heads = torch.stack([scores, torch.tensor([0, 0, 0, 0, 0, 1.0, 0.8])], dim=1)
    assert chosen(keep_one(kept, heads, OFFSETS)) == [3, 4, 5]  # means .75 and .7
