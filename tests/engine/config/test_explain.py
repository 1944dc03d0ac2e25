"""A wrong configuration is told in one line: the file or flag, the key, what is allowed."""

from pathlib import Path

import pytest

import evaluate
import train
from engine.config.explain import explain

ROOT = Path(__file__).resolve().parents[3]
RECIPE = "configs/quickstart/abmil.yaml"


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


WRONG = [
    (
        "data: {init_args: {batch_sise: 3}}",
        "unknown key data.init_args.batch_sise; did you mean batch_size?",
    ),
    ("data: [1, 2]", "data is [1, 2]; allowed is a mapping with class_path and init_args or null"),
    (
        "data: {class_path: datamodules.DigitBagDataModule}",
        "data: there is no class datamodules.DigitBagDataModule; did you mean "
        "datamodules.mil.digit_bags.DigitBagsDataModule?",
    ),
    ("data: {class_path: nothere.Data}", "data: there is no module nothere; check class_path"),
    ("just a text", "its top level is not a mapping"),
    ("trainr: {max_epochs: 3}", "unknown key trainr; did you mean trainer?"),
    ("trainer: {max_epoch: 3}", "unknown key trainer.max_epoch; did you mean max_epochs?"),
    ("checkpoint: {monitr: a}", "unknown key checkpoint.monitr; did you mean monitor?"),
    ("wandb: {projekt: a}", "unknown key wandb.projekt; did you mean project?"),
    (
        "model: {init_args: {model: {init_args: {gatd: true}}}}",
        "unknown key model.init_args.model.init_args.gatd; did you mean gated?",
    ),
    (
        "model: {init_args: {optimizer: {class_path: torch.optim.AdamW, init_args: {learn: 1}}}}",
        "unknown key model.init_args.optimizer.init_args.learn; known are ",
    ),
    ("data: {init_args: {batch_size: many}}", "data.init_args.batch_size is many; allowed is int"),
    ("data: {init_args: {target: [1, 2]}}", "data.init_args.target is [1, 2]; allowed is int"),
    ("trainer: {max_epochs: [1, 2]}", "trainer.max_epochs is [1, 2]; allowed is int or null"),
    ("trainer: {precision: sixteen}", "trainer.precision is sixteen; allowed is "),
    (
        "trainer: {callbacks: [{class_path: callbacks.MaskGalery}]}",
        "trainer.callbacks: there is no class callbacks.MaskGalery; did you mean "
        "callbacks.seg.gallery.MaskGallery?",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("content", "message"), WRONG)
def test_one_line_names_the_file_and_the_key(tmp_path, capsys, content, message):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(content)
    words = ["--config", RECIPE, "--config", str(overlay), "--runs_dir", str(tmp_path)]
    assert train.main(["fit", *words]) == 2
    shown = capsys.readouterr().err.strip()
    assert shown.startswith(f"error: {overlay}: {message}")
    assert "\n" not in shown
    assert not list(tmp_path.glob("abmil*"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data.batch_sise", "3"], "--data.batch_sise: unknown key data.init_args.batch_si"),
        (["--data.batch_size=many"], "--data.batch_size: data.init_args.batch_size is many;"),
        (["--data.batch_size", "-1"], "batch_size must be at least 1, got -1"),
        (["--data", "datamodules.Absent"], "--data: data: there is no class datamodules.Absent;"),
        (["--trainer.max_epochs", "-7"], "`max_epochs` must be a non-negative integer or -1"),
        (["--trainer.max_e", "3"], "--trainer.max_e: unknown key trainer.max_e; did you mean"),
        (["--model.class_pth", "a.B"], "--model.class_pth: unknown key model.init_args.class_pt"),
        (["--foo"], "--foo: unknown key foo; known are model, data, trainer"),
        (["--config", "nothere.yaml"], "nothere.yaml: No such file or directory; --config nam"),
        (["--config", "configs"], "configs: Is a directory; --config names a YAML recipe"),
        (["--model.init_args.threshold", "2"], "threshold is a probability in [0, 1] or 'youden'"),
    ],
)  # fmt: skip
def test_one_line_names_the_flag(tmp_path, capsys, flags, message):
    assert train.main(["fit", "--config", RECIPE, *flags, "--runs_dir", str(tmp_path)]) == 2
    shown = capsys.readouterr().err
    assert f"error: {message}" in shown
    assert "Traceback" not in shown
    assert len(shown.split("error: ")[1].strip().splitlines()) == 1


def test_the_first_of_several_faults_is_told(tmp_path, capsys):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(
        "model: {init_args: {threshold: high, losses: 1}}\ntrainer: {max_stepz: 3}\n"
    )
    words = ["--config", RECIPE, "--config", str(overlay), "--data.seed=x"]
    for main, command in ((train.main, "fit"), (evaluate.main, "check-data")):
        assert main([command, *words]) == 2
        (line,) = capsys.readouterr().err.split("error: ")[1].strip().splitlines()
        assert line.startswith(f"{overlay}: model.init_args.threshold is high; allowed is float")


def test_the_last_place_that_holds_a_key_is_named(tmp_path):
    text = "Subcommand 'fit' does not accept option 'trainer.max_epoch'"
    files = [tmp_path / f"{name}.yaml" for name in "abc"]
    for file, content in zip(files, ("{max_epoch: 1}", "{max_epoch: 2}", "{}"), strict=True):
        file.write_text(f"trainer: {content}")
    words = [word for file in files for word in ("--config", str(file))]
    assert explain(text, words).startswith(f"{files[1]}: unknown key")
    assert explain(text, [*words, "--trainer.max_epoch=1"]).startswith("--trainer.max_epoch: unk")
    assert explain(text).startswith("unknown key trainer.max_epoch")


def test_other_messages_stay_as_they_are():
    assert explain("argument subcommand: invalid choice: 'fitt'") == (
        "argument subcommand: invalid choice: 'fitt'"
    )
    assert explain("no such image") == "no such image"
