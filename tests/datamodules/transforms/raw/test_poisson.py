"""Poisson numbers by their quantiles, beside scipy's distribution."""

import numpy as np
import pytest
import torch
from scipy import stats

from datamodules.transforms.raw.poisson import normal_quantile, poisson_quantile

UNIFORM = (torch.arange(2**18) + 0.5) / 2**18


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.7, 3.3, 5.99])
def test_small_rates_are_exact(rate):
    found = poisson_quantile(torch.full_like(UNIFORM, rate), UNIFORM).numpy()
    differ = found != stats.poisson.ppf(UNIFORM.double().numpy(), rate)
    assert differ.mean() < 1e-4  # where a uniform number is within rounding of a step
    assert np.all(np.diff(found) >= 0)


@pytest.mark.parametrize(("rate", "mass"), [(6.0, 5e-4), (15.0, 1e-4), (800.0, 3e-4)])
def test_the_mass_of_large_rates_is_the_distributions(rate, mass):
    """Half the sum of absolute differences of the probabilities, up to the grid of numbers."""
    found = poisson_quantile(torch.full_like(UNIFORM, rate), UNIFORM).long().numpy()
    counts = np.bincount(found, minlength=2000)[:2000] / len(found)
    assert abs(counts - stats.poisson.pmf(np.arange(2000), rate)).sum() / 2 < mass


def test_rates_may_differ_from_pixel_to_pixel():
    rates = torch.tensor([[0.5, 50.0], [7.0, 5.0]])
    halves = torch.full((2, 2), 0.5)
    assert poisson_quantile(rates, halves).tolist() == stats.poisson.median(rates).tolist()


def test_normal_quantiles():
    wanted = stats.norm.ppf(UNIFORM.double().numpy())
    np.testing.assert_allclose(normal_quantile(UNIFORM).numpy(), wanted, atol=2e-5)
