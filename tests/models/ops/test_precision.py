import pytest
import torch

from models.ops.precision import at_least_float32, has_bfloat16_units


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


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({"amx_bf16": True, "avx512_bf16": False}, True),
        ({"avx512_bf16": True}, True),
        ({"bf16": True, "neon": True}, True),
        ({"avx512_f": True, "avx512_bf16": False, "amx_tile": False}, False),
        ({}, False),
    ],
)
def test_units_for_bfloat16_are_those_the_processor_reports(known, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    assert has_bfloat16_units() is expected


def test_units_for_bfloat16_in_older_pytorch(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    for name, value in (("_is_amx_tile_supported", False), ("_is_avx512_bf16_supported", True)):
        monkeypatch.setattr(torch.cpu, name, lambda value=value: value)
    assert has_bfloat16_units() is True
