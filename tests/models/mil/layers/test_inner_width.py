"""Widths of ACMIL and AEM follow the features, as in the authors' code."""

from pathlib import Path

import pytest

from engine.cross_validation.recipe import read_recipe
from models.mil.layers.inner_width import inner_width
from models.mil.mha import MHA

CONFIGS = Path(__file__).parents[4] / "configs/mil"


@pytest.mark.parametrize("name", ["acmil", "aem", "aem_mha"])
def test_recipes_embed_features_as_wide_as_the_authors_do(name):
    for features, width in ((384, 128), (512, 256), (768, 384), (1024, 512), (1536, 768)):
        model = read_recipe(CONFIGS / f"{name}.yaml").build(2, features, "binary").model
        embed = getattr(model, "learner", model).embed
        assert [p.shape for p in embed.parameters()] == [(width, features)]


def test_a_single_feature_has_a_width():
    assert inner_width(1) == 1


def test_the_width_is_rounded_up_to_a_multiple_of_the_heads():
    assert MHA(12, 2, "binary", heads=8).embed[0].weight.shape == (8, 12)
