"""Both stages of SegPrompt from the command line, resuming, and what its checkpoints predict."""

import json

import pytest
import torch

import evaluate
import train
from datamodules.seg.digit_scenes import DigitScenesDataModule
from engine.checkpoints.restore import restore
from lightning_modules.seg.segprompt import SegPromptModule
from tests.support.layers import ROOT

NETWORK = "--model.init_args.model.init_args"
SMALL = [
    "--config", "configs/quickstart/segprompt.yaml", "--data.size", "64", "--data.digits", "[2,4]",
    "--data.digit_size", "[16,28]", "--data.train_scenes", "8", "--data.val_scenes", "2",
    "--data.batch_size", "2", f"{NETWORK}.width", "32", f"{NETWORK}.encoder_layers", "1",
    f"{NETWORK}.decoder_layers", "2", f"{NETWORK}.num_points", "64", f"{NETWORK}.num_queries", "8",
    "--model.init_args.lr_scheduler", "null", "--model.init_args.first_steps", "2",
    "--trainer.val_check_interval", "2", "--trainer.accelerator", "cpu", "--trainer.devices", "1",
    "--callbacks.progress", "false", "--callbacks.known_unknown", "false",
]  # fmt: skip


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def fit(*words):
    assert train.main(["fit", *map(str, words), "--debug"]) == 0


def content(run, name="last"):
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        fit(*SMALL, "--trainer.max_steps", "4", "--runs_dir", runs)
    return runs / "segprompt" / "version_0"


@pytest.mark.slow
def test_the_first_stage_is_a_mask2former_of_one_class(whole):
    first, second = content(whole / "first_stage"), content(whole)
    assert first["global_step"] == 2
    assert second["global_step"] == 4
    model = first["segmil"]["blueprint"]["model"]
    assert model["class_path"] == "lightning_modules.open_world.OpenWorldModule"
    assert model["init_args"]["model"]["class_path"] == "models.seg.mask2former.Mask2Former"
    assert set(model["init_args"]["loss_weights"]) == {"class", "mask", "dice"}
    assert first["segmil"]["blueprint"]["links"]["num_classes"] == 1
    best = content(whole / "first_stage", "best")["state_dict"]
    added = second["state_dict"].keys() - best.keys()
    assert {name.split(".")[1] for name in added} == {"prompts"}
    backbone = [name for name in best if name.startswith("model.backbone") and "norm" not in name]
    frozen = [n for n in backbone if torch.equal(second["state_dict"][n], best[n])]
    assert frozen == backbone  # also running statistics
    trained = [n for n in best if not torch.equal(second["state_dict"][n], best[n])]
    assert any("decoder.query_feat" in name for name in trained)
    assert bool(second["state_dict"]["model.prompts.seen"].any())


@pytest.mark.slow
def test_resuming_equals_the_whole_run_bit_for_bit(whole, tmp_path):
    """A file takes the place of the first stage, and the bank goes on where it was."""
    given = ["--model.init_args.init_from", whole / "first_stage" / "checkpoints" / "best.ckpt"]
    fit(*SMALL, *given, "--trainer.max_steps", "2", "--runs_dir", tmp_path)
    run = tmp_path / "segprompt" / "version_0"
    assert not (run / "first_stage").exists()
    half, wanted = content(run), content(whole)
    fit("--ckpt_path", run / "checkpoints" / "last.ckpt", "--trainer.max_steps", "4")
    found = content(run)
    assert not torch.equal(
        half["state_dict"]["model.prompts.bank"], found["state_dict"]["model.prompts.bank"]
    )
    assert found["state_dict"].keys() == wanted["state_dict"].keys()
    for name, value in wanted["state_dict"].items():
        assert torch.equal(found["state_dict"][name], value), name


@pytest.mark.slow
def test_a_checkpoint_predicts_objects(whole, tmp_path, capsys):
    checkpoint = whole / "checkpoints" / "last.ckpt"
    module = restore(checkpoint).module
    assert isinstance(module, SegPromptModule)
    assert module.category_map.to_dict() == {"ids": [11], "names": ["object"]}
    assert module.known_map.ids == (1, 2, 3, 4, 5, 6)
    assert module.model.num_classes == 6
    options = {"val_scenes": 2, "size": 64, "digits": (2, 4), "digit_size": (16, 28)}
    images, truth = DigitScenesDataModule(**options).write_split("val", tmp_path / "set")
    saved, scores = tmp_path / "found.json", tmp_path / "scores.json"
    words = ["--annotations", truth, "--images", images, "--ckpt", checkpoint]
    protocol = ["open-world", "--protocol", "exclude-known", *words, "--out", scores]
    assert evaluate.main([*map(str, protocol), "--save-predictions", str(saved)]) == 0
    rows = json.loads(saved.read_text())
    assert rows
    assert {row["category_id"] for row in rows} == {11}
    assert evaluate.main(["coco", *map(str, words)]) == 0
    assert "segm_map" in capsys.readouterr().out
    predicted = ["predict", "--ckpt_path", checkpoint, "--data", images, "--runs_dir", tmp_path]
    assert train.main([*map(str, predicted), "--debug"]) == 0
