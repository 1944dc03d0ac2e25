"""The pieces of resuming: counters, options, weights, the folder that a run goes on in."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from engine.checkpoints.continuation import continuation
from lightning_modules.resuming import (
    check_state,
    check_weights,
    differences,
    fix_counters,
    follow_configuration,
    hyperparameters,
    seed_batch,
)
from optim.schedules import Cosine


def test_dropout_depends_on_the_place_in_the_run_alone():
    """Validation and callbacks may draw what they like; processes and batches differ."""
    draws = []
    for key in [(0, 0, 5), (0, 0, 5), (0, 0, 6), (0, 1, 5), (1, 0, 5), (2**63, 0, 5)]:
        torch.rand(3)
        seed_batch(*key)
        draws.append((torch.rand(()).item(), np.random.rand(), random.random()))
    assert draws[0] == draws[1]
    for column in zip(*draws[1:], strict=True):
        assert len(set(column)) == 5


def counters(ready, started, processed, completed):
    return {"ready": ready, "started": started, "processed": processed, "completed": completed}


def checkpoint(epochs):
    batches = {"current": counters(5, 5, 5, 5), "total": counters(15, 15, 15, 15)}
    progress = {"current": dict(epochs), "total": dict(epochs)}
    loops = {"epoch_progress": progress, "epoch_loop.batch_progress": batches}
    batches["is_last_batch"] = True
    return {"loops": {"fit_loop": loops}}


@pytest.mark.parametrize(
    "epochs", [counters(3, 3, 3, 2), counters(4, 3, 3, 3), counters(3, 3, 3, 3)],
    ids=["epoch end", "next epoch", "end of training"],
)  # fmt: skip
def test_a_finished_epoch_is_counted_as_finished(epochs):
    saved = checkpoint(epochs)
    assert fix_counters(saved)
    loops = saved["loops"]["fit_loop"]
    done = counters(3, 3, 3, 3)
    assert loops["epoch_progress"] == {"current": done, "total": done}
    assert loops["epoch_loop.batch_progress"] == {
        "current": counters(0, 0, 0, 0), "total": counters(15, 15, 15, 15), "is_last_batch": False,
    }  # fmt: skip


def test_an_epoch_that_goes_on_keeps_its_counters():
    saved = checkpoint(counters(3, 3, 2, 2))
    assert not fix_counters(saved)
    assert saved == checkpoint(counters(3, 3, 2, 2))


def test_an_epoch_inside_which_the_run_ended_goes_on():
    """Lightning closes the epoch in which ``max_steps`` is reached as if it were complete."""
    saved, inside = checkpoint(counters(3, 3, 3, 3)), checkpoint(counters(3, 3, 2, 2))
    for one in (saved, inside):
        batches = one["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        batches |= {"current": counters(2, 2, 2, 2), "is_last_batch": False}
    assert not fix_counters(saved)
    assert saved == inside


def test_differences_name_every_value():
    old = {"a": {"b": 1, "c": [1, 2]}, "gone": {}}
    new = {"a": {"b": 2, "c": [1, 2]}, "new": None}
    assert differences(old, new) == [
        "a.b: 1 -> 2", "gone: {} -> not given", "new: not given -> None",
    ]  # fmt: skip
    assert differences(old, old) == []


def optimizer(lr, decay, steps=10, at=0):
    made = torch.optim.SGD(
        [{"params": [nn.Parameter(torch.ones(1))], "lr": lr * 0.1, "weight_decay": 0.0},
         {"params": [nn.Parameter(torch.ones(1))], "weight_decay": decay}],
        lr=lr, momentum=0.9,
    )  # fmt: skip
    options = hyperparameters(made)
    schedule = Cosine(made, steps)
    for _ in range(at):
        made.step()
        schedule.step()
    return made, schedule, options


def test_a_changed_recipe_applies_from_the_resumed_step_on():
    old, old_schedule, _ = optimizer(0.1, 0.01, steps=10, at=4)
    new, schedule, options = optimizer(0.4, 0.02, steps=20)
    new.load_state_dict(old.state_dict())
    schedule.load_state_dict(old_schedule.state_dict())
    assert new.param_groups[1]["weight_decay"] == 0.01  # what torch does
    follow_configuration(new, options, schedule)
    straight, _, _ = optimizer(0.4, 0.02, steps=20, at=4)
    assert hyperparameters(new) == hyperparameters(straight)
    new.step()
    schedule.step()
    assert new.param_groups[0]["lr"] == 0.04 * schedule.factor(5)


def test_an_unchanged_recipe_changes_nothing():
    old, old_schedule, _ = optimizer(0.1, 0.01, at=4)
    new, schedule, options = optimizer(0.1, 0.01)
    new.load_state_dict(old.state_dict())
    schedule.load_state_dict(old_schedule.state_dict())
    follow_configuration(new, options, schedule)
    assert new.state_dict() == old.state_dict()
    assert schedule.state_dict() == old_schedule.state_dict()
    assert schedule.get_last_lr() == old_schedule.get_last_lr()


def test_without_a_schedule_the_rate_itself_is_set():
    parameters = [nn.Parameter(torch.ones(1))]
    old, new = torch.optim.SGD(parameters, lr=0.1), torch.optim.SGD(parameters, lr=0.2)
    options = hyperparameters(new)
    new.load_state_dict(old.state_dict())
    follow_configuration(new, options, None)
    assert new.param_groups[0]["lr"] == 0.2


def test_weights_of_another_network_are_refused_by_name_and_shape():
    found = {"a": torch.ones(2), "b": torch.ones(3), "old": torch.ones(1)}
    wanted = {"a": torch.ones(2), "b": torch.ones(4), "new": torch.ones(1)}
    check_weights(found, found)
    with pytest.raises(
        ValueError, match="new: not in the checkpoint; old: not in the model; b: "
    ) as e:
        check_weights(found, wanted)
    assert "(3,) in the checkpoint, (4,) in the model" in str(e.value)
    assert "init_from" in str(e.value)


def test_a_checkpoint_without_the_optimizers_state_is_refused():
    made = optimizer(0.1, 0.01)[0]
    whole = {"loops": {}, "optimizer_states": [made.state_dict()]}
    check_state(whole, made)
    for missing in ("loops", "optimizer_states"):
        with pytest.raises(ValueError, match=r"weights alone.*init_from"):
            check_state({k: v for k, v in whole.items() if k != missing}, made)
    other = torch.optim.SGD([nn.Parameter(torch.ones(1)) for _ in range(2)], lr=0.1)
    with pytest.raises(ValueError, match=r"groups of \[1, 1\] parameters, this one has \[2\]"):
        check_state(whole, other)


def test_an_older_checkpoint_gets_a_new_folder(tmp_path):
    folder = tmp_path / "name" / "version_0" / "checkpoints"
    folder.mkdir(parents=True)
    for name, step in (("last", 10), ("best", 6), ("newer", 12)):
        torch.save({"global_step": step}, folder / f"{name}.ckpt")
    found = continuation(folder / "last.ckpt")
    assert (found.folder, found.step) == (folder.parent, 10)
    assert continuation(folder / "best.ckpt") is None
    assert continuation(folder / "newer.ckpt").step == 12
    (folder / "last.ckpt").unlink()
    assert continuation(folder / "best.ckpt").step == 6
    torch.save({"global_step": 1}, tmp_path / "elsewhere.ckpt")
    assert continuation(tmp_path / "elsewhere.ckpt") is None
