"""timm does not find wandb, and everybody else does."""

import sys
from types import ModuleType

import pytest

from models.backbones.lazy_timm import load_timm


@pytest.mark.parametrize("loaded", [None, ModuleType("wandb")])
def test_wandb_is_as_before_once_timm_is_loaded(monkeypatch, loaded):
    monkeypatch.setitem(sys.modules, "wandb", loaded)
    if loaded is None:
        monkeypatch.delitem(sys.modules, "wandb")
    assert load_timm().__name__ == "timm"
    assert sys.modules.get("wandb") is loaded
    assert ("wandb" in sys.modules) == (loaded is not None)
