"""What every model promises, for each recipe in configs/mil with the recipe's own widths.

`pytest tests/models/mil/test_every_model.py -k dsmil` looks at one. Models are found by their
recipes. A model may say two things about itself by class attributes: ``permutation_invariant =
False``, and ``joint_terms``, the names of loss terms that compare bags or instances of a batch with
each other, so that a batch is not the mean of its bags.
"""

import dataclasses
import io

import pytest
import torch

from models.mil.protocol import MILModel, TwoPartModel
from models.ops.bags.ragged import segment_ids, segment_sum
from tests.support.mil_recipes import NAMES, build, prepare, random_bags, without_dropout

TASKS = [("binary", 2), ("multiclass", 3), ("multilabel", 3)]
FIELDS = ("logits", "attention", "attention_logits", "embeddings", "instance_logits")

MANY = 1100  # more than the views, landmarks, anchors and tokens of any recipe

every_recipe = pytest.mark.parametrize("name", NAMES)


def built(name, task="binary", num_classes=2):
    """Build a module, or skip where the model says in so many words that it has no such task."""
    try:
        return build(name, task, num_classes)
    except ValueError as refusal:
        assert task in str(refusal), f"the message does not name the task: {refusal}"
        pytest.skip(str(refusal))


def joint_terms(module):
    return set(getattr(module, "joint_terms", ())) | set(getattr(module.model, "joint_terms", ()))


def trainable(module):
    return {n: p for n, p in module.named_parameters() if p.requires_grad}


def training_step(module, bags, seed=3, leave_out=()):
    """Return the terms of a training step and the gradients of their sum, by parameter."""
    module.zero_grad()
    torch.manual_seed(seed)
    terms = {n: t for n, t in module.training_terms(bags).items() if n not in leave_out}
    torch.stack([*terms.values()]).sum().backward()
    return terms, {n: None if p.grad is None else p.grad for n, p in trainable(module).items()}


def assert_close(found, wanted, tolerance=1e-5):
    """Compare two outputs or tensors by the scale of their values."""
    scale = max(1.0, float(wanted.detach().abs().max())) if wanted.numel() else 1.0
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance * scale)


@every_recipe
@pytest.mark.parametrize("size", [1, 2, 50, MANY])
def test_bags_of_every_size_train(name, size):
    for sizes in ([size], [size, 7, 1]):
        bags = random_bags(sizes)
        module = prepare(build(name), bags)
        if sizes != [MANY]:  # of so many instances, one training step has to do
            terms, gradients = training_step(module.train(), bags)
            assert "bag" in terms
            assert all(t.ndim == 0 and t.isfinite() for t in terms.values()), terms
            for parameter, gradient in gradients.items():
                assert gradient is not None, f"{parameter} gets no gradient from bags of {sizes}"
                assert gradient.isfinite().all(), f"{parameter} from bags of {sizes}"
        with torch.no_grad():
            check_output(module.eval().network(bags), bags)


def check_output(output, bags):
    """Numbers of everything a model of a binary task returns."""
    assert output.logits.shape == (len(bags), 1)
    assert output.logits.dtype == torch.float32
    values = {f: getattr(output, f) for f in FIELDS if getattr(output, f) is not None}
    assert all(value.isfinite().all() for value in values.values())
    check_attention(output, bags)
    if "instance_logits" in values:
        assert values["instance_logits"].shape[0] == bags.features.shape[0]
    if "embeddings" in values:
        assert values["embeddings"].shape[0] == len(bags)


def check_attention(output, bags):
    """Weights of the instances, not negative, that sum to 1 in each bag."""
    if output.attention is None:
        return
    assert output.attention.shape[0] == bags.features.shape[0]
    assert (output.attention >= 0).all()
    sums = segment_sum(output.attention, bags.offsets)
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1e-5)


@every_recipe
@pytest.mark.parametrize(("task", "classes"), TASKS, ids=[t for t, _ in TASKS])
def test_a_batch_gives_what_single_bags_give(name, task, classes):
    """In evaluation: outputs, losses and the gradient of each term that `losses` returns."""
    bags = random_bags([3, 1, 9, 2], task, classes, dtype=torch.float64)
    module = prepare(built(name, task, classes), bags).double().eval()
    model = module.network
    output = model(bags)
    singles = [(bag, model(bag)) for bag in bags.bags()]
    assert output.logits.shape == (4, 1 if task == "binary" else classes)
    for field in FIELDS:
        value = getattr(output, field)
        if value is not None:
            assert value.dtype == torch.float64, f"{field} is {value.dtype}"
            assert_close(value, torch.cat([getattr(out, field) for _, out in singles]))
    each = model.losses(output, bags, "none")
    mean = model.losses(output, bags)
    assert set(mean) == set(each)
    assert "bag" in mean
    for term in mean:
        apart = [model.losses(out, bag)[term] for bag, out in singles]
        assert each[term].shape == (4,)
        assert_close(each[term], torch.stack(apart))
        if term in joint_terms(module):
            continue
        assert_close(mean[term], torch.stack(apart).mean())
        gradient = gradients_of(mean[term], module)
        assert_gradients(gradient, gradients_of(torch.stack(apart).mean(), module), term)


def gradients_of(loss, module):
    if not loss.requires_grad:
        return dict.fromkeys(trainable(module))
    parameters = trainable(module)
    found = torch.autograd.grad(
        loss, list(parameters.values()), retain_graph=True, allow_unused=True
    )
    return dict(zip(parameters, found, strict=True))


def assert_gradients(found, wanted, what):
    scale = max([1e-3, *(float(g.abs().max()) for g in wanted.values() if g is not None)])
    for name, reference in wanted.items():
        ours = found[name]
        if reference is None or ours is None:
            assert all(g is None or not g.any() for g in (ours, reference)), f"{what}: {name}"
            continue
        error = float((ours - reference).abs().max())
        assert error <= 1e-5 * scale, f"{what}: gradient of {name} is {error:.1e} off"


@every_recipe
def test_a_training_step_of_a_batch_is_the_mean_of_its_bags(name):
    """In training, with the masks, groups and views that the same seed chooses; no dropout."""
    bags = random_bags([4, 1, 12, 30], dtype=torch.float64)
    module = without_dropout(prepare(build(name), bags).double().train())
    left_out = joint_terms(module)
    state = {n: v.clone() for n, v in module.state_dict().items()}
    together, gradients = training_step(module, bags, leave_out=left_out)
    gradients = {n: None if g is None else g.clone() for n, g in gradients.items()}
    sums, total = dict.fromkeys(together, 0.0), {}
    for bag in bags.bags():
        module.load_state_dict(state)
        terms, apart = training_step(module, bag, leave_out=left_out)
        for term, value in terms.items():
            sums[term] += value.detach() / 4
        for parameter, gradient in apart.items():
            if gradient is not None:
                total[parameter] = total.get(parameter, 0.0) + gradient / 4
    for term, value in together.items():
        assert_close(value.detach(), sums[term])
    assert_gradients(gradients, {n: total.get(n) for n in gradients}, name)


@every_recipe
def test_the_order_of_instances_moves_what_belongs_to_them_and_nothing_else(name):
    bags = random_bags([30, 1, 17], dtype=torch.float64)
    module = prepare(build(name), bags).double().eval()
    generator = torch.Generator().manual_seed(1)
    shuffled = torch.rand(48, generator=generator) + segment_ids(bags.offsets, 48) * 2
    order = shuffled.argsort()
    moved = dataclasses.replace(bags, features=bags.features[order])
    with torch.no_grad():
        output, other = module.network(bags), module.network(moved)
    if not getattr(module.model, "permutation_invariant", True):
        assert not torch.allclose(output.logits, other.logits, rtol=0, atol=1e-9)
        return
    assert_close(other.logits, output.logits)
    for field in ("attention", "attention_logits", "instance_logits"):
        if getattr(output, field) is not None:
            assert_close(getattr(other, field), getattr(output, field)[order])


@every_recipe
def test_losses_depend_on_output_and_bags_alone(name):
    bags = random_bags([5, 2, 8])
    module = prepare(build(name), bags)
    model = module.network
    output = module.eval().network(bags)
    state = {n: v.clone() for n, v in module.state_dict().items()}
    random_state = torch.get_rng_state()
    evaluated = {n: t.detach() for n, t in model.losses(output, bags).items()}
    module.train()
    trained = {n: t.detach() for n, t in model.losses(output, bags).items()}
    assert evaluated == trained
    assert torch.equal(random_state, torch.get_rng_state())
    assert all(torch.equal(v, state[n]) for n, v in module.state_dict().items())


@every_recipe
def test_evaluation_is_repeatable_and_changes_no_state(name):
    bags = random_bags([5, 2, 40])
    module = prepare(build(name), bags).eval()
    state = {n: v.clone() for n, v in module.state_dict().items()}
    random_state = torch.get_rng_state()
    with torch.no_grad():
        first, second = module.network(bags), module.network(bags)
    assert torch.equal(first.logits, second.logits)
    assert torch.equal(random_state, torch.get_rng_state())
    assert all(torch.equal(v, state[n]) for n, v in module.state_dict().items())


@every_recipe
def test_a_file_of_weights_brings_everything_back(name):
    """Weights and the state that lives across steps, into a module that was just built."""
    bags = random_bags([5, 2, 9])
    trained = prepare(build(name), bags).train()
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    for seed in range(2):
        training_step(trained, bags, seed)
        optimizer.step()
        trained.after_optimizer_step()
    file = io.BytesIO()
    torch.save(trained.state_dict(), file)
    file.seek(0)
    fresh = build(name)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    for parameter, value in trained.state_dict().items():
        assert torch.equal(fresh.state_dict()[parameter], value), parameter
    with torch.no_grad():
        wanted, found = trained.eval().network(bags), fresh.eval().network(bags)
    for field in FIELDS:
        if getattr(wanted, field) is not None:
            assert torch.equal(getattr(found, field), getattr(wanted, field)), field


@every_recipe
@pytest.mark.parametrize(("task", "classes"), TASKS, ids=[t for t, _ in TASKS])
def test_tasks_train_or_are_refused_when_built(name, task, classes):
    bags = random_bags([6, 1, 4], task, classes)
    module = prepare(built(name, task, classes), bags).train()
    terms, gradients = training_step(module, bags)
    assert all(t.isfinite() for t in terms.values())
    assert all(g is not None and g.isfinite().all() for g in gradients.values())
    output = module.eval().network(bags)
    probabilities = output.probabilities(task)
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    if task == "multiclass":
        torch.testing.assert_close(probabilities.sum(1), torch.ones(3))


@every_recipe
def test_half_precision_stays_close(name):
    bags = random_bags([60, 5])
    module = prepare(build(name), bags).eval()
    with torch.no_grad():
        wanted = module.network(bags)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = module.network(bags)
            losses = module.network.losses(found, bags)
    check_attention(found, bags)
    difference = (found.probabilities("binary") - wanted.probabilities("binary")).abs().max()
    assert difference <= 0.03
    assert all(t.dtype == torch.float32 for t in losses.values())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms, gradients = training_step(module.train(), bags)
    assert all(t.isfinite() for t in terms.values())
    assert all(g.isfinite().all() for g in gradients.values())


@every_recipe
def test_a_bag_of_identical_instances_trains(name):
    """Ties everywhere: in the softmax, among the largest and in every variance."""
    bags = random_bags([12, 3])
    first = bags.features[bags.offsets[:-1]].repeat_interleave(bags.sizes(), dim=0)
    bags = dataclasses.replace(bags, features=first)
    module = prepare(build(name), bags).train()
    terms, gradients = training_step(module, bags)
    assert all(t.isfinite() for t in terms.values())
    assert all(g.isfinite().all() for g in gradients.values())


@every_recipe
def test_models_follow_their_contract(name):
    module = build(name).eval()
    assert isinstance(module.model, MILModel)
    assert module.task == "binary"
    if isinstance(module.model, TwoPartModel):
        bags = random_bags([4, 1, 3])
        prepare(module, bags)
        with torch.no_grad():
            whole = module.network(bags)
            parts = module.model.pool(module.model.embed_bags(bags))
        assert torch.equal(whole.logits, parts.logits)
    with pytest.raises(ValueError, match="2 classes"):
        build(name, "binary", 3)
