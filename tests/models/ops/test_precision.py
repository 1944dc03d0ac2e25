import pytest
import torch

from models.ops.precision import at_least_float32


@pytest.mark.parametrize(
    ("given", "wide"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.int64, torch.float32),
    ],
)
def test_only_narrow_numbers_are_widened(given, wide):
    values = at_least_float32(torch.tensor([1, 2], dtype=given))
    assert values.dtype == wide
    assert values.tolist() == [1, 2]
