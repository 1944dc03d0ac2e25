"""Random times with many ties, as peers of survival analysis take them."""

from typing import NamedTuple

import numpy as np

SETS = range(50)


class Tied(NamedTuple):
    """Times, events and risks of scored and training bags, and times at which to score."""

    time: np.ndarray
    event: np.ndarray
    risk: np.ndarray
    train_time: np.ndarray
    train_event: np.ndarray
    at: np.ndarray


def tied(seed, scored=60, training=80):
    """Return a set in which times, risks, and times of events and censoring are equal in places.

    The largest training time is an event and later than all scored times, as scikit-survival asks
    for; the times to score lie within those of the scored bags.
    """
    random = np.random.default_rng(seed)
    levels = int(random.integers(6, 30))
    time = random.integers(1, levels, scored).astype(float)
    event = random.random(scored) < random.uniform(0.2, 0.9)
    event[:2] = True
    time[0], time[1] = 1.0, levels  # something happens first, and the last time is an event's
    risk = np.round(random.normal(size=scored) - time / levels, 1)
    train_time = random.integers(1, levels, training).astype(float)
    train_event = random.random(training) < random.uniform(0.3, 0.9)
    train_time[0], train_event[0] = levels + 1.0, True
    within = random.integers(2, levels, 2)  # times of bags, and times between them
    at = np.unique(np.concatenate((within, random.uniform(1.0, levels - 1e-6, 4))))
    return Tied(time, event, risk, train_time, train_event, at)


def peer(time, event):
    """Return times as scikit-survival wants them."""
    from sksurv.util import Surv

    return Surv.from_arrays(event=np.asarray(event, bool), time=np.asarray(time, float))
