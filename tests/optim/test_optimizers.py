import copy

import pytest
import torch
from torch.optim import RAdam

from lightning_modules.resuming import follow_configuration, hyperparameters
from optim.optimizers import LookaheadRAdam

SETTINGS = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-7, "weight_decay": 0.1}


def parameters():
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(3, 2, generator=generator)) for _ in range(2)]


def walk(weights, optimizer, steps, first=0):
    """Steps on gradients that depend on the weights and on the number of the step."""
    for step in range(first, first + steps):
        optimizer.zero_grad()
        sum(((w - step % 3) ** 2).sum() for w in weights).backward()
        optimizer.step()


@pytest.mark.parametrize(("alpha", "k"), [(0.5, 3), (0.3, 2), (1.0, 4)])
def test_algorithm_1_around_the_reference_radam(alpha, k):
    weights, fast = parameters(), parameters()
    optimizer = LookaheadRAdam(weights, **SETTINGS, alpha=alpha, k=k)
    inner = RAdam(fast, **SETTINGS, decoupled_weight_decay=True)
    slow = [w.detach().clone() for w in fast]
    for step in range(1, 11):
        walk(weights, optimizer, 1, first=step)
        walk(fast, inner, 1, first=step)
        if step % k == 0:
            slow = [w + alpha * (f.detach() - w) for w, f in zip(slow, fast, strict=True)]
            for weight, kept in zip(fast, slow, strict=True):
                weight.data = kept.clone()
        for mine, theirs in zip(weights, fast, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)


def test_defaults_are_those_of_the_paper():
    group = LookaheadRAdam(parameters()).param_groups[0]
    assert (group["alpha"], group["k"], group["decoupled_weight_decay"]) == (0.5, 6, True)


def test_a_group_that_is_added_later_is_synchronised_too():
    first, second = parameters()
    optimizer = LookaheadRAdam([first], **SETTINGS, alpha=0.25, k=2)
    optimizer.add_param_group({"params": [second]})
    start = second.detach().clone()
    reference = torch.nn.Parameter(start.clone())
    walk([first, second], optimizer, 2)
    walk([reference], RAdam([reference], **SETTINGS, decoupled_weight_decay=True), 2)
    expected = start + 0.25 * (reference.detach() - start)
    torch.testing.assert_close(second.detach(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 4, 6, 8])
def test_a_restored_optimizer_goes_on_bit_for_bit(steps):
    """Also after the configuration was put over the loaded state, as resuming does."""
    weights = parameters()
    optimizer = LookaheadRAdam(weights, **SETTINGS, k=3)
    walk(weights, optimizer, steps)
    state = copy.deepcopy(optimizer.state_dict())
    resumed = [torch.nn.Parameter(w.detach().clone()) for w in weights]
    again = LookaheadRAdam(resumed, **SETTINGS, k=3)
    configured = hyperparameters(again)
    again.load_state_dict(state)
    follow_configuration(again, configured, None)
    walk(weights, optimizer, 7, first=steps)
    walk(resumed, again, 7, first=steps)
    for mine, theirs in zip(weights, resumed, strict=True):
        assert torch.equal(mine, theirs)


def test_a_closure_is_called_and_parameters_without_gradient_stay():
    weights = parameters()
    optimizer = LookaheadRAdam(weights, **SETTINGS, k=1)
    before = weights[1].detach().clone()

    def closure():
        optimizer.zero_grad()
        loss = weights[0].square().sum()
        loss.backward()
        return loss

    expected = weights[0].square().sum().item()
    assert optimizer.step(closure).item() == pytest.approx(expected)
    assert torch.equal(weights[1], before)
    assert list(optimizer.state[weights[0]]) == ["step", "exp_avg", "exp_avg_sq", "slow"]


@pytest.mark.parametrize("options", [{"alpha": 0.0}, {"alpha": 1.1}, {"k": 0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="alpha must be in"):
        LookaheadRAdam(parameters(), **options)
