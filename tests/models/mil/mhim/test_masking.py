import itertools

import pytest
import torch

from models.mil.mhim.masking import MaskRatios, half_cosine
from structures import BagBatch

SIZES = [1, 2, 7, 50]


def bags_and_scores(sizes, heads=None, seed=0):
    random = torch.Generator().manual_seed(seed)
    count = sum(sizes)
    bags = BagBatch(
        features=torch.zeros(count, 1),
        offsets=torch.tensor([0, *sizes]).cumsum(0),
        labels=torch.zeros(len(sizes), dtype=torch.int64),
        index=torch.arange(len(sizes)) + 10 * seed,
    )
    shape = (count,) if heads is None else (count, heads)
    return bags, torch.rand(shape, generator=random)


def kept_of_each(masks, progress=0.0, key=3, sizes=SIZES):
    bags, scores = bags_and_scores(sizes)
    kept = masks.kept(scores, bags, progress, key)
    bounds = bags.offsets.tolist()
    return [(kept[a:b], scores[a:b].argsort()) for a, b in itertools.pairwise(bounds)]


def counts(masks, progress=0.0, sizes=SIZES):
    return [int(kept.sum()) for kept, _ in kept_of_each(masks, progress, sizes=sizes)]


def test_how_many_stay_of_1_2_7_and_50():
    # dropped are ceil(N / 2) = 1, 1, 4, 25; a bag of one keeps its one
    assert counts(MaskRatios(random=0.5)) == [1, 1, 3, 25]
    # ceil(.2 N) = 1, 1, 2, 10
    assert counts(MaskRatios(low=0.2)) == [1, 1, 5, 40]
    # candidates ceil(.04 N) = 1, 1, 1, 2, of which ceil(.5 c) = 1, 1, 1, 1
    assert counts(MaskRatios(high=0.02, high_drop_share=0.5)) == [1, 1, 6, 49]
    # candidates ceil(.4 N) = 1, 1, 3, 20, of which ceil(.5 c) = 1, 1, 2, 10
    assert counts(MaskRatios(high=0.2, high_drop_share=0.5)) == [1, 1, 5, 40]
    # .5 / .25 > 1: all are candidates, ceil(.5 N) = 1, 1, 4, 25
    assert counts(MaskRatios(high=0.5, high_drop_share=0.25)) == [1, 1, 3, 25]
    # rho = 1: the very ceil(.2 N)
    assert counts(MaskRatios(high=0.2)) == [1, 1, 5, 40]


def test_which_ones_low_and_high_drop():
    for kept, order in kept_of_each(MaskRatios(low=0.2))[2:]:
        dropped = (~kept).nonzero().flatten()
        assert set(dropped.tolist()) == set(order[: len(dropped)].tolist())
    for kept, order in kept_of_each(MaskRatios(high=0.2))[2:]:
        dropped = (~kept).nonzero().flatten()
        assert set(dropped.tolist()) == set(order[-len(dropped) :].tolist())


def test_high_drops_a_random_half_of_the_candidates():
    masks, dropped = MaskRatios(high=0.2, high_drop_share=0.5), set()
    for key in range(20):
        kept, order = kept_of_each(masks, key=key)[3]
        now = set((~kept).nonzero().flatten().tolist())
        assert len(now) == 10
        assert now <= set(order[-20:].tolist())
        dropped |= now
    assert len(dropped) == 20  # each candidate's turn comes


def test_the_random_share_is_another_with_another_key():
    one, again, other = (kept_of_each(MaskRatios(random=0.5), key=k)[3][0] for k in (3, 3, 4))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    high, random = MaskRatios(high=0.5, high_drop_share=0.25), MaskRatios(random=0.5)
    apart = [kept_of_each(m)[3][0] for m in (high, random)]
    assert not torch.equal(*apart)  # the two choices are not one


def test_unions_are_counted_on_the_whole_bag_and_may_overlap():
    masks = MaskRatios(random=0.6, low=0.2, high=0.02)
    for bag, (kept, _) in enumerate(kept_of_each(masks)):
        parts = [MaskRatios(random=0.6), MaskRatios(low=0.2), MaskRatios(high=0.02)]
        together = torch.stack([kept_of_each(p)[bag][0] for p in parts]).all(dim=0)
        if together.any():
            assert torch.equal(kept, together)
        else:
            assert kept.sum() == 1


def test_kept_share_of_the_published_tcga_setting():
    """(1 - .6)(1 - .2) = .32 once r_h is 0; the authors' log has 3 218 of 10 199."""
    masks = MaskRatios(random=0.6, low=0.2, high=0.02)
    bags, scores = bags_and_scores([10_199])
    share = masks.kept(scores, bags, 1.0, 0).float().mean().item()
    assert share == pytest.approx(0.32, abs=0.01)
    assert masks.kept(scores, bags, 0.0, 0).float().mean().item() < share


def test_where_all_would_go_the_best_stays():
    masks = MaskRatios(random=0.9, low=0.9, high=0.9)
    for kept, order in kept_of_each(masks):
        assert kept.nonzero().flatten().tolist() == [int(order[-1])]


def test_heads_vote_or_choose_a_part_each():
    bags, scores = bags_and_scores(SIZES, heads=3)
    bounds = bags.offsets.tolist()
    for masks, of_seven in ((MaskRatios(low=0.5), 3), (MaskRatios(low=0.5, fusion="mean"), None)):
        kept = masks.kept(scores, bags, 0.0, 0)
        seven = kept[bounds[2] : bounds[3]]
        if of_seven is not None:
            assert int(seven.sum()) == of_seven  # ceil(3.5) = 4 dropped
            continue
        each = scores[bounds[2] : bounds[3]].argsort(dim=0)[:1]  # 4 // 3 = 1 a head
        assert set((~seven).nonzero().flatten().tolist()) == set(each.flatten().tolist())


def test_high_share_falls_by_half_a_cosine():
    masks = MaskRatios(high=0.04)
    # 1/2 (1 + cos(pi / 3)) = 3/4
    assert [masks.high_at(t) for t in (0, 1 / 3, 0.5)] == pytest.approx([0.04, 0.03, 0.02])
    assert masks.high_at(1.0) == pytest.approx(0.0, abs=1e-12)
    assert counts(masks, progress=1.0) == SIZES
    constant = MaskRatios(high=0.04, decay=False)
    assert constant.high_at(1.0) == 0.04
    assert half_cosine(1 / 3) == pytest.approx(0.75)


def test_a_bags_masks_do_not_depend_on_the_others():
    masks = MaskRatios(random=0.5, low=0.2, high=0.2, high_drop_share=0.5)
    for heads in (None, 4):
        bags, scores = bags_and_scores(SIZES, heads)
        together = masks.kept(scores, bags, 0.3, 5)
        parts = scores.split(SIZES)
        singles = [masks.kept(s, b, 0.3, 5) for s, b in zip(parts, bags.bags(), strict=True)]
        assert torch.equal(together, torch.cat(singles))


@pytest.mark.parametrize(
    ("ratios", "message"),
    [
        ({"high": 0.1, "high_drop_share": 0.0}, "high_drop_share"),  # rho = 0 would divide by it
        ({"high": 0.1, "high_drop_share": 1.5}, "high_drop_share"),
        ({"random": 1.0}, "masks.random"),
        ({"low": -0.1}, "masks.low"),
    ],
)
def test_wrong_shares_are_refused(ratios, message):
    with pytest.raises(ValueError, match=message):
        MaskRatios(**ratios)


def test_no_mask_at_all_is_told():
    with pytest.warns(UserWarning, match="no instance is masked"):
        masks = MaskRatios()
    assert counts(masks) == SIZES
