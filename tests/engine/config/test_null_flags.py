"""Flags that set an argument of an inner class to null."""

from pathlib import Path

import yaml

import train
from engine.config.null_flags import null_flags_as_files

BACKBONE = "--model.init_args.model.init_args.backbone.init_args"


def test_the_backbone_of_a_recipe_starts_from_scratch(capsys):
    words = ["fit", "--config", "configs/quickstart/mask2former.yaml", "--print_config"]
    train.main([*words, f"{BACKBONE}.weights", "null", f"{BACKBONE}.name=resnet10t"])
    found = yaml.safe_load(capsys.readouterr().out)
    backbone = found["model"]["init_args"]["model"]["init_args"]["backbone"]["init_args"]
    assert backbone["weights"] is None
    assert backbone["name"] == "resnet10t"


def test_later_flags_win_and_other_words_stay(tmp_path):
    words = ["fit", "--model.init_args.lr_scheduler", "null", f"{BACKBONE}.weights=null", "--name"]
    found = null_flags_as_files([*words, "null", f"{BACKBONE}.weights", "file.pt"], tmp_path)
    assert found[:3] == words[:3]
    assert found[3] == "--config"
    assert found[5:] == ["--name", "null", f"{BACKBONE}.weights", "file.pt"]
    inner = {"backbone": {"init_args": {"weights": None}}}
    content = {"model": {"init_args": {"model": {"init_args": inner}}}}
    assert yaml.safe_load(Path(found[4]).read_text()) == content
