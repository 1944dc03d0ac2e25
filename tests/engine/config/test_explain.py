"""A wrong configuration is told in one line: the file or flag, the key, what is allowed."""

from pathlib import Path

import pytest

import evaluate
import train
from engine.config.argv import config_files
from engine.config.explain import explain

ROOT = Path(__file__).resolve().parents[3]
RECIPE = "configs/quickstart/abmil.yaml"


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


ALONE = [
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
    ("just a text", "holds no keys with values at its top"),
]  # fmt: skip
TOGETHER = [  # parsing a whole recipe takes its time
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
]


def overlays(folder, contents):
    """Write files of some contents; return them, and the arguments that lay them over a recipe."""
    files = [folder / f"overlay_{n}.yaml" for n in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        file.write_text(content)
    words = [word for file in files for word in ("--config", str(file))]
    return files, ["fit", "--config", RECIPE, *words, "--runs_dir", str(folder)]


@pytest.mark.parametrize(("content", "message"), ALONE)
def test_one_line_names_the_file_and_the_key(tmp_path, capsys, content, message):
    (overlay,), arguments = overlays(tmp_path, [content])
    assert train.main(arguments) == 2
    shown = capsys.readouterr().err.strip()
    assert shown.startswith(f"error: {overlay}: {message}")
    assert "\n" not in shown
    assert not list(tmp_path.glob("abmil*"))


def test_a_line_each_names_the_file_and_the_key(tmp_path, capsys):
    contents, messages = zip(*TOGETHER, strict=True)
    files, arguments = overlays(tmp_path, contents)
    assert train.main(arguments) == 2
    lines = capsys.readouterr().err.strip().removeprefix("error: ").splitlines()
    starts = [f"{file}: {message}" for file, message in zip(files, messages, strict=True)]
    for start in starts:
        assert sum(line.strip().startswith(start) for line in lines) == 1, (start, lines)
    assert len(lines) == len(starts)
    assert not list(tmp_path.glob("abmil*"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data.batch_sise", "3"], "--data.batch_sise: unknown key data.init_args.batch_si"),
        (["--data.batch_size=many"], "--data.batch_size: data.init_args.batch_size is many;"),
        (["--data.batch_size", "-1"], "batch_size must be at least 1, got -1"),
        (["--data", "datamodules.Nope"], "--data: data: there is no class datamodules.Nope; it "),
        (["--trainer.max_epochs", "-7"], "`max_epochs` must be a non-negative integer or -1"),
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


FAULTS = """
model: {init_args: {threshold: high, optimizer: {init_args: {lr: fast, betaz: 0.9}}, losses: 1}}
data: {init_args: {batchsize: 3, num_workers: many}}
trainer: {max_stepz: 3, max_epochs: ten}
foo: 1
"""


def test_all_faults_of_a_recipe_come_at_once(tmp_path, capsys):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(FAULTS)
    words = ["--config", RECIPE, "--config", str(overlay), "--data.seed=x", "--trainer.detsct", "1"]
    expected = {
        f"{overlay}: model.init_args.optimizer.init_args.lr is fast; allowed is float",
        f"{overlay}: unknown key model.init_args.optimizer.init_args.betaz; did you mean betas?",
        f"{overlay}: unknown key model.init_args.losses; did you mean loss_weights?",
        f"{overlay}: model.init_args.threshold is high; allowed is ",
        f"{overlay}: unknown key data.init_args.batchsize; did you mean batch_size?",
        f"{overlay}: data.init_args.num_workers is many; allowed is int",
        "--data.seed: data.init_args.seed is x; allowed is int",
        f"{overlay}: unknown key trainer.max_stepz; did you mean max_steps?",
        f"{overlay}: trainer.max_epochs is ten; allowed is int or null",
        "--trainer.detsct: unknown key trainer.detsct; ",
        f"{overlay}: unknown key foo; known are ",
    }
    for main, command in ((train.main, "fit"), (evaluate.main, "check-data")):
        assert main([command, *words]) == 2
        lines = capsys.readouterr().err.split("error: ")[1].strip().splitlines()
        assert len(lines) == len(expected)
        for start in expected:
            assert sum(line.startswith(start) for line in lines) == 1, (start, lines)


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
    assert explain("no such picture") == "no such picture"


def test_files_of_a_command_line():
    words = ["fit", "--config", "a.yaml", "-c", "b.yaml", "--config=c.yaml", "--name", "d.yaml"]
    assert [str(f) for f in config_files(words)] == ["a.yaml", "b.yaml", "c.yaml"]
