"""Which decision threshold holds when a checkpoint and a configuration each bring one."""

import warnings

import pytest
import torch

from lightning_modules.mil import MILModule
from models.mil.abmil import ABMIL

SAVED = {"class_names": ("absent", "present"), "threshold": 0.25}


def module(**arguments):
    return MILModule(
        ABMIL(in_features=2, num_classes=2, task="binary"), torch.optim.SGD, **arguments
    )


@pytest.mark.parametrize(
    ("arguments", "before"), [({}, 0.5), ({"threshold": None}, 0.5), ({"threshold": "youden"}, 0.5)]
)
def test_the_checkpoint_decides_where_no_number_is_given(arguments, before):
    learner = module(**arguments)
    assert learner.threshold == before
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learner.restore_facts(SAVED)
    assert learner.threshold == 0.25


def test_a_number_wins_and_says_so():
    learner = module(threshold=0.75)
    with pytest.warns(UserWarning, match="threshold 0.75 as configured; the checkpoint's is 0.25"):
        learner.restore_facts(SAVED)
    assert learner.threshold == 0.75
    assert not learner.choose_threshold


def test_the_same_number_needs_no_word():
    learner = module(threshold=0.25)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learner.restore_facts(SAVED)
    assert learner.threshold == 0.25


@pytest.mark.parametrize("wrong", [-0.1, 1.5])
def test_out_of_range(wrong):
    with pytest.raises(ValueError, match=r"probability in \[0, 1\] or 'youden'"):
        module(threshold=wrong)
