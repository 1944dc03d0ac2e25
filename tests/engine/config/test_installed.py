"""Our recipes are found from any folder, and a lacking one cannot go unnoticed."""

import pytest

import evaluate
import train
from engine.config import installed
from engine.config.installed import CONFIGS, find_recipes, recipes_place

RECIPE = "configs/quickstart/abmil.yaml"


def test_recipes_have_their_own_path_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ours = str(CONFIGS / "quickstart" / "abmil.yaml")
    words = ["fit", "--config", RECIPE, f"--config={RECIPE}", "--data.root", "configs/none.yaml"]
    assert find_recipes(words) == ["fit", "--config", ours, f"--config={ours}", *words[-2:]]
    kept = ["x/" + RECIPE, str(tmp_path / RECIPE), "configs", "configs/quickstart", "", "=", "a=b"]
    assert find_recipes(kept) == kept
    assert recipes_place() == f"{CONFIGS}/"


def test_a_file_in_the_working_directory_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / RECIPE).parent.mkdir(parents=True)
    (tmp_path / RECIPE).write_text("{}")
    assert find_recipes([RECIPE]) == [RECIPE]
    monkeypatch.chdir(CONFIGS.parent)
    assert find_recipes([RECIPE]) == [RECIPE]
    assert recipes_place() == "configs/"


@pytest.mark.slow
def test_both_commands_take_a_recipe_from_elsewhere(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train.main(["fit", "--config", RECIPE, "--data.batch_size", "many"]) == 2
    assert "batch_size is many; allowed is int" in capsys.readouterr().err
    assert evaluate.main(["check-data", "--config", RECIPE]) == 0
    assert "no problem found" in capsys.readouterr().out
    assert train.main(["fit"]) == 2
    assert f"recipes are in {CONFIGS}/" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["fit", "--config", RECIPE], ["fit", "--help"]])
def test_the_base_of_all_runs_must_be_there(words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(installed, "BASE_CONFIG", tmp_path / "trainer.yaml")
    assert train.main(words) == 2
    assert f"{tmp_path / 'trainer.yaml'} is missing" in capsys.readouterr().err
