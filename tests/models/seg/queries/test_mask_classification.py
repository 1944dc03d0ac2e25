"""Losses of queries with a class and a mask: against transformers, and image by image."""

import dataclasses
import importlib

import pytest
import torch
from torch.nn import functional

from models.seg.queries import mask_classification
from models.seg.queries.mask_classification import MaskLossOptions, mask_classification_losses
from models.seg.queries.output import QueryOutput

CLASSES, QUERIES, OUTPUTS = 3, 9, 3
FEW = MaskLossOptions(num_points=200)
KEYS = 60
PEER = {"class": "cross_entropy", "mask": "mask", "dice": "dice"}


def predictions(images, size=(64, 64), seed=0, dtype=torch.float32, queries=QUERIES):
    generator = torch.Generator().manual_seed(seed)
    shape = (images, queries, size[0] // 16, size[1] // 16)
    cells = (size[0] // 4, size[1] // 4)
    classes, masks = [], []
    for _ in range(OUTPUTS):
        options = {"generator": generator, "dtype": dtype}
        classes.append(torch.randn(images, queries, CLASSES + 1, **options).requires_grad_())
        coarse = 4 * torch.randn(shape, **options)
        masks.append(functional.interpolate(coarse, cells, mode="bilinear").requires_grad_())
    return QueryOutput(classes, masks)


def losses(output, batch, key=0, size=(64, 64), options=FEW, **rest):
    return mask_classification_losses(output, batch, size, options, key=key, **rest)


@pytest.fixture
def peer():
    """Return transformers' loss as a function of our outputs and batch."""
    pytest.importorskip("transformers")
    module = importlib.import_module("transformers.models.mask2former.modeling_mask2former")
    config = importlib.import_module("transformers").Mask2FormerConfig(
        num_labels=CLASSES, train_num_points=FEW.num_points
    )

    def terms(output, batch):
        loss = module.Mask2FormerLoss(config, {})
        *earlier, last = [
            {"masks_queries_logits": m, "class_queries_logits": c}
            for c, m in zip(output.class_logits, output.mask_logits, strict=True)
        ]
        counts = batch.count_list()
        found = loss(
            mask_labels=[part.float() for part in batch.masks.split(counts)],
            class_labels=list(batch.labels.split(counts)),
            auxiliary_predictions=earlier,
            **last,
        )
        return {
            name: sum(v for key, v in found.items() if key.startswith(f"loss_{theirs}"))
            for name, theirs in PEER.items()
        }

    terms.module = module
    return terms


def test_costs_losses_and_gradients_are_those_of_transformers_at_the_same_points(
    scene, peer, monkeypatch
):
    batch, *_ = scene([(64, 64), (64, 64)], instances=[3, 2])
    output = predictions(2)
    drawn, ours, theirs = [], [], []
    move, solve = mask_classification.moved_points, mask_classification.assign
    monkeypatch.setattr(
        mask_classification, "moved_points", lambda *a: drawn.append(move(*a)) or drawn[-1]
    )
    monkeypatch.setattr(mask_classification, "assign", lambda c: ours.extend(c) or solve(c))
    found = losses(output, batch)
    (one, two), chosen = drawn[:2], drawn[2:]  # of each image, (outputs, points, 2)
    order = [OUTPUTS - 1, *range(OUTPUTS - 1)]  # they begin with the last output
    queue = []
    for number in order:
        queue += [one[number][None], two[number][None], *chosen[2 * number : 2 * number + 2]]
    monkeypatch.setattr(torch, "rand", lambda *a, **k: queue.pop(0))
    theirs_solve = peer.module.linear_sum_assignment
    monkeypatch.setattr(
        peer.module, "linear_sum_assignment", lambda c: theirs.append(c) or theirs_solve(c)
    )
    expected = peer(output, batch)
    assert not queue
    for number, place in enumerate(order):
        for image in range(2):
            torch.testing.assert_close(
                ours[2 * place + image], theirs[2 * number + image], rtol=1e-5, atol=1e-5
            )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    leaves = output.class_logits + output.mask_logits
    for one, other in zip(
        torch.autograd.grad(sum(found.values()), leaves),
        torch.autograd.grad(sum(expected.values()), leaves),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_the_mean_over_keys_is_that_of_transformers(scene, peer):
    batch, *_ = scene([(64, 64), (64, 64)], instances=[3, 2])
    output = predictions(2, seed=2)
    with torch.no_grad():
        ours = [losses(output, batch, key=key) for key in range(KEYS)]
        torch.manual_seed(0)
        theirs = [peer(output, batch) for _ in range(KEYS)]
    for name in PEER:
        means = [torch.stack([one[name] for one in some]).mean() for some in (ours, theirs)]
        torch.testing.assert_close(*means, rtol=0.03, atol=0)


def test_points_depend_on_key_and_image_alone(scene):
    batch, *_ = scene([(64, 64)] * 3, instances=[3, 0, 2])
    output = predictions(3)
    each = losses(output, batch, key=5, reduction="none")
    for number in range(3):
        alone = QueryOutput(*([one[number : number + 1] for one in part] for part in output[:2]))
        single = losses(alone, batch.image(number), key=5)
        for name, values in each.items():
            assert values.shape == (3,)
            torch.testing.assert_close(values[number], single[name], rtol=1e-6, atol=1e-6)
    other = losses(output, batch, key=6, reduction="none")
    assert torch.equal(other["class"], each["class"]) or not torch.equal(
        other["mask"], each["mask"]
    )
    assert float((other["mask"] - each["mask"]).abs().max()) > 0
    assert float(each["mask"][1]) == float(each["dice"][1]) == 0


@pytest.mark.parametrize("counts", [[2, 0], [0, 0]], ids=["one image", "no image"])
def test_all_outputs_get_a_gradient_where_objects_are_absent(counts, scene):
    batch, *_ = scene([(64, 64), (64, 64)], instances=counts)
    output = predictions(2)
    found = losses(output, batch)
    assert all(bool(term.isfinite()) for term in found.values())
    leaves = output.class_logits + output.mask_logits
    for gradient in torch.autograd.grad(sum(found.values()), leaves):
        assert bool(gradient.isfinite().all())
    if not any(counts):  # the mean over the queries of -log p of no object
        expected = sum(-c.log_softmax(-1)[..., -1].mean() for c in output.class_logits)
        torch.testing.assert_close(found["class"], expected)
        assert float(found["mask"]) == float(found["dice"]) == 0


def test_perfect_masks_cost_little_and_a_query_per_object_is_chosen(scene):
    batch, *_ = scene([(64, 64)], instances=3)
    masks = torch.full((1, QUERIES, 64, 64), -20.0)
    classes = torch.zeros(1, QUERIES, CLASSES + 1)
    classes[..., -1] = 20
    for number, query in enumerate((4, 1, 7)):
        masks[0, query][batch.masks[number]] = 20
        classes[0, query] = 20 * functional.one_hot(batch.labels[number], CLASSES + 1)
    found = losses(QueryOutput([classes], [masks]), batch)
    assert float(found["class"]) < 1e-5
    assert float(found["mask"]) < 1.0  # between cells of +20 and -20, points are uncertain
    wrong = losses(QueryOutput([classes], [-masks]), batch)
    assert float(wrong["mask"]) > 5 * float(found["mask"])
    assert float(wrong["dice"]) > 5 * float(found["dice"])


def test_crowds_are_no_targets(scene):
    batch, *_ = scene([(64, 64)], instances=3)
    crowd = dataclasses.replace(batch, crowd=torch.tensor([False, True, False]))
    kept = torch.tensor([0, 2])
    without = dataclasses.replace(
        batch,
        boxes=batch.boxes[kept],
        labels=batch.labels[kept],
        masks=batch.masks[kept],
        crowd=batch.crowd[kept],
        counts=torch.tensor([2]),
    )
    output = predictions(1)
    assert losses(output, crowd) == losses(output, without) != losses(output, batch)


def test_more_objects_than_queries_warn_and_the_dearest_stay_unmatched(scene, monkeypatch):
    batch, *_ = scene([(64, 64), (64, 64)], instances=[4, 1])
    found = []
    solve = mask_classification.assign
    monkeypatch.setattr(mask_classification, "assign", lambda c: found.extend(c) or solve(c))
    output = predictions(2, queries=2)
    with pytest.warns(UserWarning, match="image 100 has 4 objects, but the model has 2 queries"):
        terms = losses(output, batch)
    assert all(bool(term.isfinite()) for term in terms.values())
    best = min(float(found[0][0, a] + found[0][1, b]) for a in range(4) for b in range(4) if a != b)
    queries, objects = solve(found[:1])[0]
    assert queries.tolist() == [0, 1]
    assert float(found[0][queries, objects].sum()) == pytest.approx(best)


def test_padding_is_neither_drawn_nor_read(scene):
    """Whatever masks predict beyond the image, losses stay the same."""
    batch, *_ = scene([(40, 32), (64, 64)], instances=[2, 1])
    output = predictions(2)
    expected = losses(output, batch, reduction="none")
    changed = [mask.detach().clone() for mask in output.mask_logits]
    for mask in changed:
        mask[0, :, 10:] = 100.0
        mask[0, :, :, 8:] = -100.0
    found = losses(output._replace(mask_logits=changed), batch, reduction="none")
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("stride", [2, 4])
def test_masks_of_a_lower_resolution_are_read_in_their_own_grid(scene, stride):
    """A mask of whole cells is the same mask at any stride, except within a cell of its border."""
    batch, *_ = scene([(52, 60)], instances=1)
    masks = torch.zeros_like(batch.masks)
    masks[:, 8:32, 4:28] = True
    fine = dataclasses.replace(batch, masks=masks)
    coarse = dataclasses.replace(
        fine, masks=masks[:, ::stride, ::stride].contiguous(), mask_stride=stride
    )
    output = QueryOutput([torch.zeros(1, 1, 4)], [torch.full((1, 1, 16, 16), -3.0)])
    options = MaskLossOptions(num_points=20_000, importance=0)
    nothing = dataclasses.replace(fine, masks=torch.zeros_like(masks))
    one, two, none = (
        float(losses(output, some, options=options)["mask"]) for some in (fine, coarse, nothing)
    )
    assert one - none == pytest.approx(3 * 24 * 24 / (52 * 60), rel=0.02)  # -x t
    assert two - none == pytest.approx(one - none, rel=0.02)


def test_weights_of_classes_multiply_their_objects_alone(scene):
    batch, *_ = scene([(64, 64)], instances=3)
    output = predictions(1)
    plain = losses(output, batch)
    weighted = losses(output, batch, class_weights=torch.full((CLASSES,), 3.0))
    none = losses(output, batch, class_weights=torch.zeros(CLASSES))
    torch.testing.assert_close(
        weighted["class"] - plain["class"], 2 * (plain["class"] - none["class"])
    )
    assert weighted["mask"] == plain["mask"]


def test_half_precision_and_autocast_give_float32_losses(scene):
    batch, *_ = scene([(64, 64)], instances=2)
    output = predictions(1)
    half = QueryOutput(*([one.bfloat16() for one in part] for part in output[:2]))
    expected = losses(QueryOutput(*([one.float() for one in part] for part in half[:2])), batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = losses(half, batch)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_costs_that_are_not_finite_do_not_stop_the_matching(scene):
    batch, *_ = scene([(64, 64)], instances=2)
    output = predictions(1)
    masks = [mask.detach().clone() for mask in output.mask_logits]
    masks[0][0, 3] = torch.nan
    assert bool(losses(output._replace(mask_logits=masks), batch)["mask"].isfinite())
    masks[0][:] = torch.nan
    assert not bool(losses(output._replace(mask_logits=masks), batch)["mask"].isfinite())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_points": 0}, "num_points and oversample must be at least 1"),
        ({"importance": 1.5}, r"importance in \[0, 1\], got 12544, 3.0 and 1.5"),
        ({"no_object": 0.0}, "no_object must be positive"),
        ({"mask_cost": -1.0}, "costs must not be negative"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MaskLossOptions(**options)
