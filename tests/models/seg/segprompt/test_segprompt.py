"""SegPrompt beside the Mask2Former that it contains; its arguments."""

import dataclasses

import pytest
import torch

from models.seg.protocol import UpdatesAfterStep, UsesClassWeights


@pytest.fixture(scope="module")
def batch(scene):
    return scene([(64, 64), (64, 50)], [3, 1], seed=5)[0]


def test_predictions_are_those_of_mask2former(segprompt, plain, batch):
    model = segprompt().eval()
    for one, two in zip(model.predict(batch), plain(model).eval().predict(batch), strict=True):
        assert len(one) > 0
        torch.testing.assert_close(one.scores, two.scores, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(one.boxes, two.boxes, rtol=1e-5, atol=1e-5)
        assert set(one.labels.tolist()) == {0}


@pytest.mark.parametrize(
    "options",
    [{}, {"repeat": 1}, {"prompt_categories": 0}, {"examples": 0}, {"prompt_categories": 5}],
    ids=str,
)
def test_losses_of_the_queries_are_those_of_mask2former(segprompt, plain, batch, options):
    """Whatever prompts there are, also after the bank was filled, and with the same gradient."""
    model = segprompt(**options)
    other = plain(model)
    merged = dataclasses.replace(batch, labels=torch.zeros_like(batch.labels))
    wanted = other.losses(merged, key=3)
    for _ in range(2):
        terms = model.losses(batch, key=3)
        for name in ("class", "mask", "dice"):
            torch.testing.assert_close(terms[name], wanted[name], rtol=1e-5, atol=1e-5)
        model.prompts.bank.add_(torch.randn_like(model.prompts.bank))
        model.update_after_step()
    sum(terms[name] for name in ("class", "mask", "dice")).backward()
    sum(wanted.values()).backward()
    for name, parameter in other.named_parameters():
        gradient = dict(model.named_parameters())[name].grad
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-5)
    assert not model.prompts.features.weight.grad.any()


def test_terms_without_prompts_or_examples_are_zero_with_a_graph(segprompt, batch):
    model = segprompt(prompt_categories=0, examples=0)
    terms = model.losses(batch)
    assert {name for name, term in terms.items() if float(term.detach()) == 0} == {
        f"{kind}_{name}" for kind in ("prompt", "example") for name in ("class", "mask", "dice")
    }
    assert all(term.requires_grad for term in terms.values())


def test_losses_read_the_bank_and_do_not_write_it(segprompt, batch):
    model = segprompt()
    model.prompts.bank.normal_()
    before = model.prompts.bank.clone()
    first = model.losses(batch, key=1)
    assert torch.equal(model.prompts.bank, before)
    model.prompts.bank.zero_()
    assert not torch.equal(model.losses(batch, key=1)["prompt_class"], first["prompt_class"])
    with torch.no_grad():
        model.losses(batch, key=1)
    assert len(model.prompts._kept) == 2  # validation adds nothing


def test_bank_learns_what_examples_became(segprompt, batch):
    model = segprompt(examples=5)
    assert isinstance(model, UpdatesAfterStep)
    assert not isinstance(model, UsesClassWeights)
    model.losses(batch)
    ((outputs, labels),) = model.prompts._kept
    assert len(outputs) == 4  # all objects
    assert not outputs.requires_grad
    model.update_after_step()
    for label in range(3):
        own = outputs[labels == label]
        expected = own.mean(dim=0) if len(own) else torch.zeros(32)
        torch.testing.assert_close(model.prompts.bank[label], expected)


def test_half_precision(segprompt, batch):
    model = segprompt()
    with torch.autocast("cpu", torch.bfloat16):
        terms = model.losses(batch)
    assert all(term.dtype == torch.float32 for term in terms.values())
    for name, term in model.losses(batch).items():
        torch.testing.assert_close(terms[name], term, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 1}, "at least 2 known categories"),
        ({"repeat": 7}, "repeat must be at most num_queries 6"),
        ({"repeat": 0}, "repeat must be at least 1"),
        ({"examples": -1}, "must not be negative"),
        ({"momentum": 1.0}, "momentum"),
    ],
)
def test_arguments_out_of_range(segprompt, options, message):
    with pytest.raises(ValueError, match=message):
        segprompt(**options)


def test_more_prompts_than_categories_warn_and_repeat(segprompt, batch):
    model = segprompt(prompt_categories=7)
    with pytest.warns(UserWarning, match="prompt_categories is 7, but there are 3 known"):
        terms = model.losses(batch)
    assert all(bool(term.isfinite()) for term in terms.values())


def test_a_label_beyond_the_known_categories_is_refused(segprompt, batch):
    wrong = dataclasses.replace(batch, labels=batch.labels + 3)
    with pytest.raises(ValueError, match="label"):
        segprompt().losses(wrong)
