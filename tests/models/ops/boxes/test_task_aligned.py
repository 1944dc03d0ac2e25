"""Task-aligned assignment against explicit loops over images, objects and anchors."""

import pytest
import torch
from torchvision.ops import complete_box_iou_loss

from models.ops.boxes.task_aligned import Objects, anchors_inside, assign_anchors


def grid(columns, rows, stride):
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return (torch.stack([x, y], dim=-1).reshape(-1, 2) + 0.5) * stride


def random_case(seed, batch=3, objects=8, classes=4, dtype=torch.float32):
    """Return (logits, predicted boxes, points, objects) on a map of 64 x 48 pixels."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.cat([grid(8, 6, 8), grid(4, 3, 16)])
    logits = torch.randn(batch, len(points), classes, generator=generator)
    reach = 2 + torch.rand(batch, len(points), 4, generator=generator) * 14
    boxes = torch.cat([points - reach[..., :2], points + reach[..., 2:]], dim=-1)
    corner = torch.rand(objects, 2, generator=generator) * torch.tensor([44.0, 28.0])
    size = 3 + torch.rand(objects, 2, generator=generator) * 20
    labels = torch.randint(0, classes, (objects,), generator=generator)
    images = torch.randint(0, batch, (objects,), generator=generator)
    truth = Objects(torch.cat([corner, corner + size], dim=1).to(dtype), labels, images)
    return logits.to(dtype), boxes.to(dtype), points, truth


def slow_assignment(logits, boxes, points, objects, top_k=10, alpha=0.5, beta=6.0, min_side=16):
    """Return {(image, anchor): (object, score)}."""
    wishes, inside = {}, {}  # (image, anchor) -> list of (u, object, t)
    for number, (box, label, image) in enumerate(zip(*objects, strict=True)):
        found = []
        (cx, cy), sides = ((box[:2] + box[2:]) / 2).tolist(), (box[2:] - box[:2]).tolist()
        width, height = (max(side, min_side) for side in sides)
        for anchor, (x, y) in enumerate(points.tolist()):
            if not (abs(x - cx) < width / 2 and abs(y - cy) < height / 2):
                continue
            u = 1 - complete_box_iou_loss(boxes[image, anchor], box).item()
            t = logits[image, anchor, label].sigmoid().item() ** alpha * max(u, 0) ** beta
            found.append((t, u, anchor))
            inside.setdefault((int(image), anchor), []).append((u, number, t))
        found.sort(key=lambda one: -one[0])
        for t, u, anchor in [one for one in found[:top_k] if one[0] > 0]:
            wishes.setdefault((int(image), anchor), []).append((u, number, t))
    got = {
        place: many[0] if len(many) == 1 else max(inside[place], key=lambda one: one[0])
        for place, many in wishes.items()
    }
    best = {}
    for u, number, t in got.values():
        high_u, high_t = best.get(number, (0.0, 0.0))
        best[number] = (max(u, high_u), max(t, high_t))
    return {
        place: (number, t * best[number][0] / (best[number][1] + 1e-9))
        for place, (u, number, t) in got.items()
    }


def as_dict(positives, anchors):
    places = [divmod(row, anchors) for row in positives.rows.tolist()]
    assert len(set(places)) == len(places)
    pairs = zip(positives.objects.tolist(), positives.scores.tolist(), strict=True)
    return dict(zip(places, pairs, strict=True))


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for place, (number, score) in expected.items():
        assert found[place][0] == number
        assert found[place][1] == pytest.approx(score, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("objects", "top_k"), [(8, 10), (40, 4), (1, 1)])
def test_as_explicit_loops(seed, objects, top_k):
    case = random_case(seed, objects=objects, dtype=torch.float64)
    found = assign_anchors(*case, top_k=top_k)
    expected = slow_assignment(*case, top_k=top_k)
    assert_same(as_dict(found, len(case[2])), expected)
    assert found.objects.diff().ge(0).all()


def test_by_hand():
    """Two anchors predict the very box with scores .64 and .16: t .8 and .4, targets 1 and .5."""
    points = torch.tensor([[4.0, 4.0], [12.0, 4.0], [20.0, 4.0]])
    box = torch.tensor([0.0, 0, 16, 8])
    score = torch.tensor([0.64, 0.16, 0.99])
    found = assign_anchors(
        score.logit().view(1, 3, 1),
        box.expand(1, 3, 4),
        points,
        Objects(box.view(1, 4), torch.tensor([0]), torch.tensor([0])),
    )
    assert found.rows.tolist() == [0, 1]
    torch.testing.assert_close(found.scores, torch.tensor([1.0, 0.5]))


def test_weights_of_score_and_overlap():
    """alpha 1, beta 0 looks at scores alone."""
    logits, boxes, points, objects = random_case(0, objects=1)
    found = assign_anchors(logits, boxes, points, objects, top_k=1, alpha=1.0, beta=0.0)
    _, anchors = anchors_inside(objects.boxes, points)
    image = int(objects.images)
    own = logits[image, anchors, int(objects.labels)]
    assert found.rows.item() == image * len(points) + anchors[own.argmax()].item()


def test_points_on_the_border_are_outside():
    points = torch.tensor([[4.0, 4.0], [12.0, 4.0], [8.0, 12.0], [8.0, 4.0]])
    boxes = torch.tensor([[4.0, 0, 12, 12]])
    assert anchors_inside(boxes, points)[1].tolist() == [3]


@pytest.mark.parametrize(
    ("border", "inwards"),
    [
        pytest.param((4.0, 6.0), (1, 0), id="left"),
        pytest.param((8.0, 2.0), (0, 1), id="top"),
        pytest.param((12.0, 6.0), (-1, 0), id="right"),
        pytest.param((8.0, 10.0), (0, -1), id="bottom"),
    ],
)
def test_each_border_is_outside_and_what_is_next_to_it_inside(border, inwards):
    box, point = torch.tensor([[4.0, 2, 12, 10]]), torch.tensor([border])
    step = 1e-3 * torch.tensor(inwards)
    found = [len(anchors_inside(box, point + by)[0]) for by in (step, 0 * step, -step)]
    assert found == [1, 0, 0]


def test_objects_without_an_anchor_get_none():
    logits, boxes, points, objects = random_case(1, objects=2)
    tiny = Objects(torch.tensor([[5.0, 5, 7, 7], [0.0, 0, 3, 40]]), *objects[1:])
    found = assign_anchors(logits, boxes, points, tiny, min_side=0)
    assert [len(part) for part in found] == [0, 0, 0]


def test_small_objects_are_looked_for_in_16_pixels():
    """From -2 to 14 pixels: four points of stride 8 and one of stride 16."""
    logits, boxes, points, objects = random_case(1, objects=1)
    tiny = Objects(torch.tensor([[5.0, 5, 7, 7]]), *objects[1:])
    rows = assign_anchors(logits, tiny.boxes.expand_as(boxes), points, tiny).rows % len(points)
    assert sorted(points[rows].tolist()) == [[4, 4], [4, 12], [8, 8], [12, 4], [12, 12]]


def test_a_contested_anchor_may_go_to_an_object_that_did_not_choose_it():
    """Two flat objects choose the middle anchor; the tall one around both has a better one."""
    points = torch.tensor([[8.0, 8.0], [8.0, 40.0]])
    tall = torch.tensor([0.0, 0, 16, 48])
    truth = torch.stack([tall, torch.tensor([0.0, 0, 16, 20]), torch.tensor([0.0, 0, 16, 18])])
    predicted = torch.stack([torch.tensor([0.0, 0, 16, 40]), tall]).unsqueeze(0)
    objects = Objects(truth, torch.zeros(3).long(), torch.zeros(3).long())
    found = assign_anchors(torch.zeros(1, 2, 1), predicted, points, objects, top_k=1)
    assert (found.rows.tolist(), found.objects.tolist()) == ([0, 1], [0, 0])


def test_no_objects_at_all():
    logits, boxes, points, objects = random_case(1, objects=0)
    found = assign_anchors(logits, boxes, points, objects)
    assert [len(part) for part in found] == [0, 0, 0]


def test_an_anchor_between_two_goes_to_the_larger_overlap_although_its_score_is_lower():
    points = torch.tensor([[8.0, 8.0]])
    predicted = torch.tensor([[[0.0, 0, 16, 16]]])
    truth = torch.tensor([[0.0, 0, 16, 12], [0.0, 0, 16, 15]])
    objects = Objects(truth, torch.tensor([0, 1]), torch.tensor([0, 0]))
    found = assign_anchors(torch.tensor([[[9.0, -9.0]]]), predicted, points, objects)
    assert found.objects.tolist() == [1]


def test_equal_objects_and_equal_anchors():
    """The first of equal objects gets an anchor, and of equal anchors the first are chosen."""
    points = grid(4, 4, 8)
    box = torch.tensor([0.0, 0, 32, 32])
    objects = Objects(box.expand(3, 4), torch.zeros(3).long(), torch.zeros(3).long())
    found = assign_anchors(torch.zeros(1, 16, 1), box.expand(1, 16, 4), points, objects, top_k=5)
    assert found.objects.tolist() == [0] * 5
    assert found.rows.tolist() == [0, 1, 2, 3, 4]
    assert found.scores.tolist() == [1.0] * 5


def test_all_anchors_taken():
    points = grid(4, 4, 8)
    objects = Objects(
        torch.cat([points - 5, points + 5], dim=1), torch.zeros(16).long(), torch.zeros(16).long()
    )
    boxes = torch.cat([points - 4, points + 4], dim=1).unsqueeze(0)
    found = assign_anchors(torch.zeros(1, 16, 1), boxes, points, objects)
    assert found.objects.tolist() == list(range(16))
    assert found.rows.tolist() == list(range(16))


def test_anchors_that_miss_their_object_stay_negative():
    points = torch.tensor([[8.0, 8.0]])
    far = torch.tensor([[[100.0, 100, 116, 116]]])
    objects = Objects(torch.tensor([[0.0, 0, 16, 16]]), torch.tensor([0]), torch.tensor([0]))
    found = assign_anchors(torch.zeros(1, 1, 1), far, points, objects)
    assert found.rows.tolist() == []


def test_order_of_objects_and_company_change_nothing():
    logits, boxes, points, objects = random_case(3, objects=30)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    shuffled = Objects(*(part[order] for part in objects))
    first = as_dict(assign_anchors(logits, boxes, points, objects), len(points))
    second = as_dict(assign_anchors(logits, boxes, points, shuffled), len(points))
    assert_same(first, {place: (order[k].item(), score) for place, (k, score) in second.items()})
    own = (objects.images == 1).nonzero().flatten()
    alone = Objects(objects.boxes[own], objects.labels[own], torch.zeros_like(own))
    third = as_dict(assign_anchors(logits[1:2], boxes[1:2], points, alone), len(points))
    assert_same(
        {place: pair for place, pair in first.items() if place[0] == 1},
        {(1, anchor): (own[k].item(), score) for (_, anchor), (k, score) in third.items()},
    )


def test_half_precision_is_widened():
    """In half precision u^6 of a poor prediction would be 0."""
    logits, boxes, points, objects = random_case(4)
    wide = assign_anchors(logits.half().float(), boxes.half().float(), points, objects)
    half = assign_anchors(logits.half(), boxes.half(), points, objects)
    assert torch.equal(wide.rows, half.rows)
    assert half.scores.dtype == torch.float32
    torch.testing.assert_close(wide.scores, half.scores)


@pytest.mark.parametrize("top_k", [0, -1, -10])
def test_top_k_of_nothing_is_refused(top_k):
    with pytest.raises(ValueError, match=f"top_k must be at least 1, got {top_k}"):
        assign_anchors(*random_case(0), top_k=top_k)
