import numpy as np
import pytest
import yaml

from engine.config.recipe import Recipe
from engine.cross_validation.nested.grid import read_grid, with_values


@pytest.fixture
def grid_of(tmp_path, config):
    """Return a function that reads a grid of these lines for the small recipe with flags."""
    recipe = config()

    def read(text, *flags):
        file = tmp_path / "G.yaml"
        file.write_text(text)
        return read_grid(file, Recipe((recipe,), flags))

    return read


def test_values_reach_the_recipe_as_they_are(config):
    recipe = Recipe((config(),))
    values = {
        "model.init_args.optimizer.init_args.lr": 1e-5,
        "model.init_args.optimizer.init_args.betas": [0.9, 1e-5],
        "model.model.init_args.hidden_sizes": [[8, 16]],
        "model.init_args.threshold": "youden",
        "model.init_args.lr_scheduler": None,
        "data.init_args.standardise": False,
        "trainer.max_steps": 7,
    }
    changed = with_values(recipe, values)
    model = changed.section("model")["init_args"]
    assert model["optimizer"]["init_args"] == {
        "lr": 1e-5,
        "weight_decay": 0.1,
        "betas": [0.9, 1e-5],
    }
    assert model["model"]["init_args"]["hidden_sizes"] == [[8, 16]]
    assert model["threshold"] == "youden" and model["lr_scheduler"] is None
    assert changed.section("data")["init_args"]["standardise"] is False
    assert changed.section("trainer")["max_steps"] == 7
    assert recipe.section("trainer")["max_steps"] == 30


def test_all_combinations_the_last_path_fastest(grid_of):
    grid = grid_of("model.optimizer.lr: [1e-4, 0.5]\ntrainer.max_steps: [3, 4]")
    assert [tuple(c.values()) for c in grid.combinations()] == [
        (1e-4, 3), (1e-4, 4), (0.5, 3), (0.5, 4)
    ]  # fmt: skip
    assert grid.plain() == {"model.optimizer.lr": [1e-4, 0.5], "trainer.max_steps": [3, 4]}
    assert len(list(grid.singles())) == 4
    assert np.isclose(grid_of("model.lr: [1e-4]").combinations()[0]["model.lr"], 1e-4)


@pytest.mark.parametrize(
    ("text", "flags", "said"),
    [
        ("model.optimizer.lr: []", (), "has an empty list; give the values"),
        ("model.optimizer.lr: 0.1", (), "has 0.1, which is no list"),
        ("model: {optimizer: {lr: [0.1]}}", (), "model is no dotted path"),
        ("lr: [0.1]", (), "lr is no dotted path of a recipe"),
        ("optimizer.lr: [0.1]", (), "optimizer.lr is no dotted path"),
        ("data.bag: [slide, patient]", (), "data.bag would change which bags there are"),
        ("data.init_args.time_bins: [3, 4]", (), "time_bins would change which bags"),
        ("trainer.devices: [1, 2]", (), "trainer.devices changes no result; give it as a flag"),
        ("model.lr: [1]\nmodel.init_args.lr: [2]", (), "is given by the line model.lr too"),
        ("trainer.max_steps: [1]", ("--trainer.max_steps", "3"), "is given by a flag too"),
        ("model.lr: [1]\nmodel.lr: [2]", (), "the key model.lr of line 1 is repeated in line 2"),
        ("[1, 2]", (), "not a mapping"),
    ],
)
def test_a_wrong_grid_names_file_path_and_remedy(grid_of, tmp_path, text, flags, said):
    with pytest.raises(ValueError, match="G.yaml") as error:
        grid_of(text, *flags)
    assert said in str(error.value)
    assert yaml.safe_load(text) is not None


def test_a_missing_grid(tmp_path, config):
    with pytest.raises(ValueError, match="no such file; name a YAML file with lines such as"):
        read_grid(tmp_path / "none.yaml", Recipe((config(),)))
