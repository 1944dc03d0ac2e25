"""`evaluate.py mil-assumptions` as a user types it."""

import json
import textwrap
from pathlib import Path

import pytest

import evaluate

ROOT = Path(__file__).resolve().parents[2]
FOREIGN = "tests.foreign.aggregators."
SHORT = ("--seeds", "1", "--bags", "200", "--epochs", "4")


def run(*arguments):
    return evaluate.main(["mil-assumptions", *[str(a) for a in arguments]])


def test_attention_of_others_is_caught_and_shown(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    out = tmp_path / "found.json"
    name = FOREIGN + "GatedAttention"
    code = run("--model", name, "--init-args", '{"width": 16}', "--tests", 1, *SHORT, "--out", out)
    shown = capsys.readouterr().out
    assert code == 0
    record = json.loads(out.read_text())
    assert record["verdicts"] == {"test_1": "VIOLATION", "test_2": "n/a", "test_3": "n/a"}
    assert record["auc"]["test_1"]["train"] >= 0.9
    assert record["auc"]["test_1"]["test"] <= 0.5
    assert record["auc"]["test_2"] == {"train": None, "test": None}
    assert record["adapter"] == "bag"
    assert record["structure"]["monotonicity"]["status"] == "fails"
    assert record["respects"] == {"standard": False, "threshold": False}
    (seed,) = record["seeds"]["test_1"]
    assert (seed["seed"], seed["vote"]) == (0, "VIOLATION")
    assert seed["seconds"] > 0
    assert record["settings"]["train_bags"] == 200
    assert record["settings"]["test_bags"] == 100
    (example,) = record["counter_examples"]
    assert example["added"] == "poison"
    assert example["after"] < example["before"]
    assert "torch" in record["versions"]
    # and for people
    assert "GatedAttention through the adapter bag" in shown
    assert "accepts no mask; --adapter chooses another" in shown
    assert "V │ VIOLATION" in shown
    assert f"has the logit {example['before']:.4g}; with one more instance, poison" in shown
    assert f"it has {example['after']:.4g}" in shown
    assert "added: poison" in shown
    assert "background instances" in shown
    assert "monotonicity fails: a bag of" in shown
    assert "respects standard MIL: no, at least one seed violates test 1" in shown


@pytest.mark.slow
def test_a_padded_module_and_a_model_of_ours(tmp_path):
    for name, adapter in (
        (FOREIGN + "PaddedMaxOfScores", "batch"),
        ("models.mil.mi_net.InstanceMINet", "packed"),
    ):
        out = tmp_path / "found.json"
        assert run("--model", name, "--tests", 3, *SHORT, "--out", out) == 0
        record = json.loads(out.read_text())
        assert record["adapter"] == adapter
        assert record["structure"]["monotonicity"]["status"] == "holds"
        assert record["structure"]["duplication"]["status"] == "holds"
        assert record["verdicts"]["test_3"] == "INCONCLUSIVE"  # a maximum cannot express it
        assert record["counter_examples"] == []


def test_a_recipe_with_changes(tmp_path):
    out = tmp_path / "found.json"
    recipe = ROOT / "configs/mil/abmil.yaml"
    changes = '{"hidden_sizes": [16], "attention_dim": 8}'
    assert run("--model", recipe, "--init-args", changes, "--tests", 1, *SHORT, "--out", out) == 0
    record = json.loads(out.read_text())
    assert record["adapter"] == "recipe"
    assert list(record["files"]) == [str(recipe)]
    assert record["verdicts"]["test_1"] == "VIOLATION"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "Nothing"], "'Nothing' is not a dotted name"),
        (["--model", "no.such.Thing"], "no module 'no'"),
        (["--model", FOREIGN + "Nope"], "no class or function 'Nope'"),
        (["--model", FOREIGN + "MaxOfScores", "--init-args", '{"depth": 2}'], "depth"),
        (["--model", FOREIGN + "MaxOfScores", "--init-args", "{width"], "is not JSON"),
        (["--model", FOREIGN + "MaxOfScores", "--init-args", "[1]"], "is not a JSON object"),
        (["--model", FOREIGN + "MaxOfScores", "--adapter", "packed"], "adapter packed"),
        (["--model", FOREIGN + "MaxOfScores", "--adapter", "sparse"], "invalid choice: 'sparse'"),
        (["--model", FOREIGN + "MaxOfScores", "--tests", "4"], "invalid choice: 4"),
        (["--model", FOREIGN + "MaxOfScores", "--seeds", "0"], "must be positive, got 0"),
        (["--model", FOREIGN + "MaxOfScores", "--bags", "3"], "--bags 3"),
        (["--model", FOREIGN + "Broken", *SHORT], "its loss was not a number throughout"),
        (["--model", "configs/mil/nowhere.yaml"], "nowhere.yaml"),
        (["--model", "configs/mil/abmil.yaml", "--adapter", "bag"], "is for dotted names"),
        (["--model", FOREIGN + "MaxOfScores", "--out", "tests"], "--out tests is a folder"),
        ([], "--model"),
    ],
)
def test_wrong_input_is_told_in_one_message_with_code_2(capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(ROOT)
    assert run(*arguments) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


def test_a_module_in_the_working_folder(tmp_path, monkeypatch, capsys):
    text = """
    import torch
    class Tiny(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.score = torch.nn.Linear(16, 1)
        def forward(self, x):
            return self.score(x).max()
    """
    (tmp_path / "aggregator_of_mine.py").write_text(textwrap.dedent(text))
    monkeypatch.chdir(tmp_path)
    assert run("--model", "aggregator_of_mine.Tiny", "--tests", 1, *SHORT) == 0
    assert "Tiny through the adapter bag" in capsys.readouterr().out
