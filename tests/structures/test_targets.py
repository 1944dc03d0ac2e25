"""Coding of times and values, and what the logits of each task say."""

import json
import math

import numpy as np
import pytest
import torch

from structures import BagBatch, MILOutput, TargetCoding

# Six events at 1, 2, 2, 4, 7, 9 and bags that are censored before, between and after them.
TIMES = [[1, 1], [2, 1], [2, 1], [4, 1], [7, 1], [9, 1], [0.5, 0], [12, 0], [3, 0]]


def test_edges_are_quantiles_of_the_events_and_the_largest_time_of_all():
    coding = TargetCoding.fit("discrete_time", TIMES, 3)
    # positions 5/3 and 10/3 of the sorted event times: 2, and a third of the way from 4 to 7
    assert coding.edges == pytest.approx((0, 2, 5, 12))
    assert TargetCoding.fit("discrete_time", TIMES, 1).edges == (0, 12)


def test_bins_are_closed_on_the_left_and_later_times_are_in_the_last():
    coding = TargetCoding("discrete_time", edges=(0.0, 2.0, 5.0, 12.0))
    times = torch.tensor([0, 1.9999, 2, 4.9999, 5, 12, 100]).double()
    labels = torch.stack([times, torch.arange(7) % 2], dim=1)
    coded = coding.coded(labels)
    assert coded[:, 0].tolist() == [0, 0, 1, 1, 2, 2, 2]
    assert torch.equal(coded[:, 1], labels[:, 1])
    assert coded.dtype == torch.float64


def test_equal_edges_ask_for_fewer_bins():
    with pytest.raises(ValueError, match=r"time_bins: 5 bins .* \(twice 2\); ask for fewer bins"):
        TargetCoding.fit("discrete_time", TIMES, 5)
    with pytest.raises(ValueError, match="ask for fewer bins"):  # an event at 0
        TargetCoding.fit("discrete_time", [[0, 1], [0, 1], [5, 1]], 2)
    with pytest.raises(ValueError, match="time_bins must be at least 1"):
        TargetCoding.fit("discrete_time", TIMES, 0)


@pytest.mark.parametrize("task", ["cox", "discrete_time"])
def test_training_bags_without_an_event_are_refused(task):
    with pytest.raises(ValueError, match="none of the 2 training bags has an event"):
        TargetCoding.fit(task, [[1, 0], [2, 0]], 1)


def test_values_are_coded_by_their_own_known_values_and_decoded():
    labels = np.array([[1.0, math.nan], [3.0, 10.0], [math.nan, 40.0], [8.0, 10.0]])
    coding = TargetCoding.fit("regression", labels, 2)
    coded = coding.coded(torch.tensor(labels))
    assert np.isnan(coded.numpy()).tolist() == np.isnan(labels).tolist()
    np.testing.assert_allclose(np.nanmean(coded, axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(np.nanstd(coded, axis=0), 1, atol=1e-12)  # with 1/n
    np.testing.assert_allclose(coding.decoded(coded), labels, rtol=1e-12)


def test_constant_and_unknown_targets_are_refused_by_name():
    with pytest.raises(ValueError, match="target er has only the value 2 in the training bags"):
        TargetCoding.fit("regression", [[1.0, 2.0], [3.0, 2.0]], 2, names=["pr", "er"])
    with pytest.raises(ValueError, match="target number 0 has no known value"):
        TargetCoding.fit("regression", [[math.nan], [math.nan]], 1)


def test_a_coding_survives_a_checkpoint():
    values = [[0.1, 3.0], [0.7, 9.0]]
    for task, labels in (("discrete_time", TIMES), ("regression", values), ("ordinal", [0, 1])):
        coding = TargetCoding.fit(task, labels, 2)
        assert TargetCoding.from_plain(json.loads(json.dumps(coding.plain()))) == coding


def test_risks_and_grades_have_no_code():
    times, grades = torch.tensor(TIMES).double(), torch.tensor([2, -1, 0])
    assert TargetCoding.fit("cox", TIMES, 1).coded(times) is times
    assert TargetCoding.fit("ordinal", [2, -1, 0], 3).coded(grades) is grades


def bags(labels):
    count = len(labels)
    return BagBatch(torch.zeros(count, 2), torch.arange(count + 1), labels, torch.arange(count))


@pytest.mark.parametrize("task", ["cox", "regression", "ordinal"])
def test_labels_travel_as_they_are(task):
    labels = {
        "cox": torch.tensor(TIMES).double(),
        "regression": torch.tensor([[1.5, math.nan], [2.0, 0.1]]).double(),
        "ordinal": torch.tensor([1, -1, 0]),
    }[task]
    batch = bags(labels)
    joined = BagBatch.collate(batch.bags()).to("cpu")
    assert joined.labels.dtype == labels.dtype
    torch.testing.assert_close(joined.labels, labels, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    "labels", [torch.ones(3), torch.ones(3, 2), torch.ones(3, 2, dtype=torch.float16)]
)
def test_labels_that_would_tie_times_are_refused(labels):
    with pytest.raises(ValueError, match=r"integers, or \(B, T\) float64"):
        bags(labels)


def test_survival_and_risk_by_hand():
    output = MILOutput(torch.tensor([[0.0, math.log(3)], [-200.0, 200.0]]))
    # hazards 1/2 and 3/4: S is 1/2 and 1/8
    torch.testing.assert_close(output.survival()[0], torch.tensor([0.5, 0.125]).double())
    assert output.risk("discrete_time").tolist() == pytest.approx([-0.625, -1.0])
    assert torch.equal(output.predictions("discrete_time"), output.survival())
    assert output.risk("discrete_time").dtype == torch.float64
    assert MILOutput(torch.tensor([[0.3]])).predictions("cox").dtype == torch.float64
    with pytest.raises(ValueError, match="predicts no risk"):
        output.risk("multiclass")
    for task in ("cox", "regression"):
        with pytest.raises(ValueError, match="no probabilities"):
            output.probabilities(task)
    assert output.predictions("regression") is output.logits


def test_a_risk_that_saturates_in_float32_still_orders_bags():
    logits = torch.tensor([[-20.0, -20.0], [-21.0, -20.0], [-22.0, -20.0]])
    risk = MILOutput(logits).risk("discrete_time")
    assert (risk.diff() < 0).all()
    assert not risk.float().diff().any()


def test_grades_by_hand():
    # P(y > 0) = 3/4, P(y > 1 given y >= 1) = 1/3
    output = MILOutput(torch.tensor([[math.log(3), -math.log(2)]]))
    wanted = torch.tensor([[1 / 4, 3 / 4 * 2 / 3, 3 / 4 / 3]])
    torch.testing.assert_close(output.probabilities("ordinal"), wanted)
    far = MILOutput(torch.tensor([[100.0, -100.0], [-100.0, 100.0]])).probabilities("ordinal")
    torch.testing.assert_close(far, torch.tensor([[0.0, 1, 0], [1, 0, 0]]))
