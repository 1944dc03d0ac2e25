"""Recipes as they are written, before a parser sees them."""

from pathlib import Path

import pytest

from engine.config.recipe import Recipe, overlaid, take_flag

OPTIMIZER = "model: {init_args: {optimizer: {class_path: torch.optim.SGD, init_args: {%s}}}}\n"


def test_a_command_line_is_files_and_the_rest():
    words = ["fit", "--config", "a.yaml", "-c", "b.yaml", "--config=c.yaml", "--name", "d.yaml"]
    recipe = Recipe.of_words(words)
    assert [str(f) for f in recipe.files] == ["a.yaml", "b.yaml", "c.yaml"]
    assert recipe.overrides == ("fit", "--name", "d.yaml")
    assert Recipe.of_words(["--config"]).overrides == ("--config",)


def test_a_flag_is_taken_out_of_a_command_line():
    for words in (["fit", "--data", "x", "--a"], ["fit", "--data=x", "--a"]):
        assert take_flag(words, "--data") == (["fit", "--a"], "x")
    assert take_flag(["--data.root", "x", "--data"], "--data") == (
        ["--data.root", "x", "--data"],
        None,
    )


@pytest.mark.parametrize(
    ("inner", "flags", "command", "taken"),
    [
        ("lr: 0.1", [], "fit", True),
        ("momentum: 0.9", [], "fit", False),
        ("momentum: 0.9", ["--model.init_args.optimizer.init_args.lr", "0.1"], "fit", True),
        ("momentum: 0.9", ["--model.optimizer.lr=0.1"], "fit", True),
        ("momentum: 0.9", ["--model.optimizer.lr_decay=0.1"], "fit", False),
        ("momentum: 0.9", [], "test", True),
    ],
)
def test_training_needs_a_learning_rate(tmp_path, inner, flags, command, taken):
    file = tmp_path / "recipe.yaml"
    file.write_text(OPTIMIZER % inner)
    recipe = Recipe((file,), (command, *flags))
    if taken:
        recipe.check(trains=command == "fit")
    else:
        with pytest.raises(ValueError, match=r"torch.optim.SGD has no learning rate"):
            recipe.check(trains=command == "fit")


def test_the_learning_rate_may_stand_in_another_file(tmp_path):
    (tmp_path / "a.yaml").write_text(OPTIMIZER % "lr: 0.1")
    (tmp_path / "b.yaml").write_text(OPTIMIZER % "momentum: 0.9")
    Recipe((tmp_path / "a.yaml", tmp_path / "b.yaml")).check(trains=True)


def test_a_section_may_be_a_file_beside_the_recipe(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "recipe.yaml").write_text("data: ../data.yaml\nname: data.yaml\n")
    (tmp_path / "data.yaml").write_text("class_path: a.B\n")
    recipe = Recipe((tmp_path / "inner" / "recipe.yaml",))
    assert recipe.contents() == [{"data": {"class_path": "a.B"}, "name": "data.yaml"}]
    assert recipe.section("data") == {"class_path": "a.B"}
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(ValueError, match=r"data\.yaml: No such file"):
        recipe.check(trains=True)


def test_mappings_merge_and_lists_are_replaced():
    below = {"class_path": "A", "init_args": {"sizes": [1, 2], "inner": {"class_path": "B"}}}
    above = {"init_args": {"sizes": [3], "inner": {"init_args": {"x": None}}}}
    inner = {"class_path": "B", "init_args": {"x": None}}
    expected = {"class_path": "A", "init_args": {"sizes": [3], "inner": inner}}
    assert overlaid(below, above, "") == expected
    assert overlaid(expected, {"init_args": {"inner": "B"}}, "") == expected
    assert below["init_args"]["sizes"] == [1, 2]


def test_another_class_is_refused_or_replaces_what_there_is():
    below = {"inner": {"class_path": "B", "init_args": {"x": 1}}}
    for other in ({"class_path": "C"}, "C"):
        with pytest.raises(ValueError, match=r"^f\.yaml: model\.inner: C cannot be laid over B"):
            overlaid(below, {"inner": other}, "f.yaml: model")
        replaced = overlaid(below, {"inner": other}, "", replace=True)
        assert replaced == {"inner": {"class_path": "C"}}
    assert overlaid(below, {"inner": None}, "") == {"inner": None}


def test_the_place_of_a_key_is_the_last_that_sets_it(tmp_path):
    files = [tmp_path / name for name in ("a.yaml", "b.yaml", "c.yaml")]
    for file, value in zip(files, (1, 2, "["), strict=True):  # the last one cannot be read
        file.write_text(f"data: {{init_args: {{size: {value}}}}}\n")
    key = ["data", "init_args", "size"]
    assert Recipe(tuple(files)).place_of(key) == str(files[1])
    flags = ("--data.size=3", "--data.sizes", "4")
    assert Recipe(tuple(files), flags).place_of(key) == "--data.size"
    assert Recipe(tuple(files)).place_of(["data", "class_path"]) is None
    assert Recipe((Path("nowhere.yaml"),)).place_of(key) is None
