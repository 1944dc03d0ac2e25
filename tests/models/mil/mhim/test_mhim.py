import copy
import functools
import math
from pathlib import Path

import pytest
import torch

from engine.cross_validation.recipe import read_recipe
from models.mil.abmil import ABMIL
from models.mil.dsmil import DSMIL
from models.mil.mhim import MHIM, GlobalRecycle
from models.mil.mhim.masking import MaskRatios
from models.mil.mhim.mhim import embedding_consistency
from models.mil.protocol import class_probability
from models.ops.bags.keyed_random import random_order
from models.ops.masks.instances import random_instances
from structures import BagBatch

CONFIGS = Path(__file__).parents[4] / "configs/mil"
CLOSE = {"rtol": 0, "atol": 1e-6}
MASKS = MaskRatios(random=0.5, low=0.1, high=0.1, high_drop_share=0.5)


def bag_batch(sizes, width=5, seed=0, classes=2):
    random = torch.Generator().manual_seed(seed)
    return BagBatch(
        features=torch.randn(sum(sizes), width, generator=random),
        offsets=torch.tensor([0, *sizes]).cumsum(0),
        labels=torch.arange(len(sizes)) % classes,
        index=torch.arange(len(sizes)) + 3,
    )


def model_for(kind, dropout):
    if kind == "dsmil":
        return functools.partial(DSMIL, hidden_sizes=(6,), attention_dim=4, dropout=dropout)
    return functools.partial(
        ABMIL, hidden_sizes=(6,), attention_dim=4, dropout=dropout, branches=int(kind[-1])
    )


def mhim_for(kind="abmil1", task="binary", classes=2, dropout=0.0, apart=True, **options):
    """An MHIM whose teacher is another network than its student."""
    torch.manual_seed(1)
    model = MHIM(5, classes, task, learner=model_for(kind, dropout), **({"masks": MASKS} | options))
    if apart:
        for parameter in model.teacher.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def recycling():
    torch.manual_seed(2)
    recycle = GlobalRecycle(6, 2, heads=2, head_width=3, dropout=0.0, momentum=0.9)
    return {"recycle": recycle, "recycle_keep_ratio": 0.5}


def test_consistency_by_hand():
    # teacher (0, tau log 3) -> (1/4, 3/4); student (log 2, 0) -> (2/3, 1/3)
    teacher = torch.tensor([[0.0, 0.1 * math.log(3)]])
    student = torch.tensor([[math.log(2), 0.0]])
    loss = embedding_consistency(student, teacher, 1.0, 0.1)
    expected = -(0.25 * math.log(2 / 3) + 0.75 * math.log(1 / 3))
    torch.testing.assert_close(loss, torch.tensor([expected]), **CLOSE)
    # student temperature 2: (log sqrt 2, 0)
    loss = embedding_consistency(student, teacher, 2.0, 0.1).item()
    total = math.sqrt(2) + 1
    expected = -(0.25 * math.log(math.sqrt(2) / total) + 0.75 * math.log(1 / total))
    assert loss == pytest.approx(expected, abs=1e-6)


def slow_contrast(student, teacher, student_temperature, teacher_temperature):
    """The authors' loss of one bag: a cross-entropy for each class, averaged."""
    losses = []
    for z, target in zip(student, teacher, strict=True):
        wanted = [math.exp(v / teacher_temperature) for v in target.tolist()]
        given = [math.exp(v / student_temperature) for v in z.tolist()]
        losses.append(
            -sum(
                w / sum(wanted) * math.log(g / sum(given))
                for w, g in zip(wanted, given, strict=True)
            )
        )
    return sum(losses) / len(losses)


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_the_contrast_is_one_cross_entropy_per_class_averaged(classes):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 4, classes, 7).double()
    expected = [slow_contrast(*pair, 1.5, 0.1) for pair in zip(student, teacher, strict=True)]
    found = embedding_consistency(student, teacher, 1.5, 0.1)
    assert found.tolist() == pytest.approx(expected, abs=1e-9)
    if classes == 1:  # the same as without the axis
        found = embedding_consistency(student[:, 0], teacher[:, 0], 1.5, 0.1)
        assert found.tolist() == pytest.approx(expected, abs=1e-9)


def test_the_contrast_of_three_classes_as_the_authors_code_gave_it():
    """5.39096 was printed by their `SoftTargetCrossEntropy` (second version) for these tensors."""
    torch.manual_seed(0)
    student, teacher = torch.randn(1, 3, 512), torch.randn(1, 3, 512)
    found = embedding_consistency(student, teacher, 1.0, 0.1)
    assert found.item() == pytest.approx(5.39096, abs=1e-5)


def test_class_probabilities_by_hand():
    three = torch.tensor([[0.0, math.log(2), 0.0], [math.log(6), 0.0, 0.0]])
    assert class_probability(three, "multiclass").tolist() == pytest.approx([0.5, 0.75])
    one = torch.tensor([[math.log(3)], [-math.log(4)]])
    assert class_probability(one, "binary").tolist() == pytest.approx([0.75, 0.8])
    two = torch.cat([torch.zeros(2, 1), one], dim=1)  # the same as two logits
    torch.testing.assert_close(
        class_probability(two, "multiclass"), class_probability(one, "binary"), **CLOSE
    )
    many = torch.tensor([[-math.log(3), math.log(3)], [-math.log(4), -math.log(9)]])
    assert class_probability(many, "multilabel").tolist() == pytest.approx([0.75, 0.2])


def test_shares_of_a_hundred_thousand_instances_keep_their_order():
    shares = (torch.randperm(1000) + 1).float() * 1e-8  # float32 has 60 probabilities there
    for task, logits in (
        ("binary", -shares[:, None]),
        ("multiclass", torch.stack([0 * shares, shares, -shares], dim=1)),
        ("multilabel", torch.stack([shares, shares / 2], dim=1)),
    ):
        assert torch.equal(class_probability(logits, task).argsort(), shares.argsort())


def by_hand(model, bags, progress, key, scores):
    """The terms of single bags, in the order of the paper: embed all, then choose."""
    terms = []
    for bag in bags.bags():
        with torch.no_grad():
            seen_by_teacher = model.teacher.embed_bags(bag)
            taught = model.teacher.pool(seen_by_teacher)
        kept = model.masks.kept(scores(taught, seen_by_teacher), bag, progress, key)
        output = model.student.pool(model.student.embed_bags(bag).keep(kept))
        own = model.student.losses(output, bag)
        z, target = output.embeddings, (taught.embeddings / 0.1).softmax(-1)
        terms.append(own | {"consistency": -(target * z.log_softmax(-1)).sum(-1).mean()})
    return {name: torch.stack([t[name] for t in terms]).mean() for name in terms[0]}


def attention(output, _):
    return output.attention


def instance_logits(output, _):
    return output.instance_logits.max(dim=1).values


@pytest.mark.parametrize(
    ("kind", "task", "scores", "options"),
    [
        ("abmil1", "binary", attention, {}),
        ("abmil3", "multiclass", attention, {}),
        ("dsmil", "multiclass", instance_logits, {"scores": "instance_logits"}),
        ("dsmil", "binary", instance_logits, {"scores": "instance_logits"}),
    ],
)
def test_a_step_is_that_of_single_bags_written_out(kind, task, scores, options):
    classes = 3 if task == "multiclass" else 2
    model = mhim_for(kind, task, classes, **options).train()
    bags = bag_batch([7, 1, 20, 2], classes=classes)
    torch.manual_seed(5)
    found = model.training_losses(bags, 0.25)
    torch.manual_seed(5)
    key = int(torch.randint(2**62, ()))
    wanted = by_hand(model, bags, 0.25, key, scores)
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5)
    parameters = list(model.student.parameters())
    mine = torch.autograd.grad(sum(found.values()), parameters)
    theirs = torch.autograd.grad(sum(wanted.values()), parameters)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("recycled", [False, True])
def test_a_batch_gives_what_single_bags_give_in_training(recycled):
    model = mhim_for(**(recycling() if recycled else {})).train()
    bags = bag_batch([7, 1, 20, 2, 3])

    def terms(batch):
        torch.manual_seed(9)
        return model.training_losses(batch, 0.5)

    together, singles = terms(bags), [terms(bag) for bag in bags.bags()]
    for name, value in together.items():
        mean = torch.stack([s[name] for s in singles]).mean()
        torch.testing.assert_close(value, mean, **CLOSE)


def test_class_aware_scores_are_probabilities_of_shares_in_the_logits():
    model = mhim_for("abmil3", "multiclass", 3, scores="class_aware", masks=MaskRatios(high=0.3))
    bags = bag_batch([10])
    with torch.no_grad():
        embedded = model.teacher.embed_bags(bags)
        output = model.teacher.pool(embedded)
        weight = model.teacher.classifier.weight  # (C, K E)
        shares = torch.stack(
            [weight @ (a[:, None] * h).flatten() for a, h in zip(
                output.attention, embedded.features, strict=True
            )]
        )  # fmt: skip
    _, kept = model.teach(bags, 0.0, key=0)
    order = shares.softmax(dim=1).max(dim=1).values.argsort()
    assert set((~kept).nonzero().flatten().tolist()) == set(order[-3:].tolist())


def test_the_teacher_follows_by_an_exponential_average():
    model = mhim_for(momentum=0.75)
    start, students = copy.deepcopy(model.teacher.state_dict()), []
    for step in range(4):
        for parameter in model.student.parameters():
            parameter.data.add_(torch.randn_like(parameter))
        students.append(copy.deepcopy(model.student.state_dict()))
        model.update_teacher(step / 4)
    for name, value in model.teacher.state_dict().items():
        # m^n T_0 + (1 - m) sum_i m^(n - 1 - i) S_i
        closed = 0.75**4 * start[name]
        closed = closed + sum(0.25 * 0.75 ** (3 - i) * s[name] for i, s in enumerate(students))
        torch.testing.assert_close(value, closed, **CLOSE)


def test_cosine_momentum_ends_at_one():
    # 1 - .2 x (1, 3/4, 1/2, 0) = .8, .85, .9, 1
    for progress, momentum in ((0.0, 0.8), (1 / 3, 0.85), (0.5, 0.9), (1.0, 1.0)):
        model = mhim_for(momentum=0.8, momentum_schedule="cosine")
        name, before = next(iter(model.teacher.state_dict().items()))
        before = before.clone()
        model.update_teacher(progress)
        student, now = model.student.state_dict()[name], model.teacher.state_dict()[name]
        torch.testing.assert_close(now, momentum * before + (1 - momentum) * student, **CLOSE)


def test_the_recipe_of_the_second_version_masks_as_much_at_the_end_as_at_the_beginning():
    model = read_recipe(CONFIGS / "mhim_v2.yaml").build(2, 8, "binary").model
    assert [model.masks.high_at(progress) for progress in (0.0, 0.5, 1.0)] == [0.03] * 3
    model = read_recipe(CONFIGS / "mhim_dsmil.yaml").build(2, 8, "binary").model  # the first
    assert [model.masks.high_at(progress) for progress in (0.0, 1.0)] == [0.01, 0.0]


class WithBuffer(ABMIL):
    """A model with a statistic, which the teacher takes over as it is."""

    def __init__(self, *args):
        super().__init__(*args, hidden_sizes=(6,), attention_dim=4)
        self.register_buffer("seen", torch.tensor([0, 0]))


def test_buffers_are_copied():
    model = MHIM(5, 2, "binary", learner=WithBuffer, masks=MASKS, momentum=1.0)
    model.student.seen += torch.tensor([2, 5])
    model.update_teacher(0.0)
    assert model.teacher.seen.tolist() == [2, 5]


@pytest.mark.parametrize("recycled", [False, True])
def test_gradients_reach_the_whole_student_and_never_the_teacher(recycled):
    for sizes in ([1], [1, 4]):
        model = mhim_for(dropout=0.2, **(recycling() if recycled else {})).train()
        sum(model.training_losses(bag_batch(sizes), 0.0).values()).backward()
        trained = {n: p.grad for n, p in model.named_parameters() if not n.startswith("teacher.")}
        assert all(g is not None and g.isfinite().all() for g in trained.values())
        assert all(p.grad is None and not p.requires_grad for p in model.teacher.parameters())


def test_the_teacher_keeps_its_dropout_in_training():
    model = mhim_for(dropout=0.5, apart=False).train()
    bags = bag_batch([30])
    first, second = (model.teach(bags, 0.0, 0)[0] for _ in range(2))
    assert not torch.equal(first, second)
    model.eval()
    assert torch.equal(model.teach(bags, 0.0, 0)[0], model.teach(bags, 0.0, 0)[0])


def test_prediction_is_the_students_on_all_instances():
    model, bags = mhim_for(**recycling()).eval(), bag_batch([9, 1])
    output, plain = model(bags), model.student(bags)
    assert torch.equal(output.logits, plain.logits)
    assert output.attention.shape == (10,)
    assert torch.equal(
        model.losses(output, bags, "none")["bag"], model.student.losses(plain, bags, "none")["bag"]
    )


def test_evaluation_of_the_training_terms_is_deterministic():
    model, bags = mhim_for(dropout=0.5, **recycling()).eval(), bag_batch([9, 4])
    torch.manual_seed(0)
    first = model.training_losses(bags, 0.0)
    second = model.training_losses(bags, 0.0)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_recycling_by_hand():
    """Half of what is kept stays, the rest becomes two tokens; one instance alone is both."""
    model = mhim_for(masks=MaskRatios(high=0.2), **recycling()).train()
    bags, key = bag_batch([10, 1]), 11
    _, kept = model.teach(bags, 0.0, key)
    seen = model.student.embed_bags(bags.keep(kept))
    assert seen.sizes().tolist() == [8, 1]
    joined = model._recycled(seen, model.recycle, key)
    assert joined.sizes().tolist() == [4 + 2, 1 + 2]
    order = random_order(seen, key, 2)
    everyone = torch.ones(9, dtype=torch.bool)
    stays = random_instances(everyone, order, seen.offsets, torch.tensor([4, 1]))
    torch.testing.assert_close(joined.features[:4], seen.features[:8][stays[:8]], **CLOSE)
    torch.testing.assert_close(joined.features[6], seen.features[8], **CLOSE)
    rest = [seen.features[:8][~stays[:8]], seen.features[8:]]
    for rows, place in zip(rest, (slice(4, 6), slice(7, 9)), strict=True):
        offsets, zero = torch.tensor([0, len(rows)]), torch.tensor([0])
        tokens = model.recycle(BagBatch(rows, offsets, zero, zero))[0]
        torch.testing.assert_close(joined.features[place], tokens, **CLOSE)


@pytest.mark.parametrize("half", [False, True])
def test_queries_follow_all_bags_since_the_last_step(half):
    model = mhim_for(**recycling()).train()
    before, tokens = model.recycle.queries.clone(), []
    model.recycle.register_forward_hook(lambda *call: tokens.append(call[-1].detach().float()))
    for sizes in ([5], [9, 4]):  # accumulated
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            model.training_losses(bag_batch(sizes), 0.0)
    model.update_teacher(0.0)
    mean = torch.cat(tokens).mean(dim=0)
    torch.testing.assert_close(model.recycle.queries, 0.9 * before + 0.1 * mean, **CLOSE)
    model.update_teacher(0.0)  # nothing new, nothing moves
    torch.testing.assert_close(model.recycle.queries, 0.9 * before + 0.1 * mean, **CLOSE)
    model.eval().training_losses(bag_batch([5]), 0.0)
    model.update_teacher(0.0)  # evaluation leaves no trace
    torch.testing.assert_close(model.recycle.queries, 0.9 * before + 0.1 * mean, **CLOSE)


@pytest.mark.parametrize("init", ["fc", "all", "none"])
def test_what_the_student_begins_with(init):
    model = mhim_for(student_init=init)
    own = copy.deepcopy(model.student.state_dict())
    model.start_from_teacher()
    teacher = model.teacher.state_dict()
    for name, value in model.student.state_dict().items():
        taken = init == "all" or (init == "fc" and name.startswith("embed."))
        assert torch.equal(value, (teacher if taken else own)[name]), name
        assert taken is not torch.equal(value, own[name]), name
