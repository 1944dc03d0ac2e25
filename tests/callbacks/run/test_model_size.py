from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import nn

import train
from callbacks.run.model_size import ModelSize


def lines(caplog):
    return [r.getMessage() for r in caplog.records if r.getMessage().startswith("model: ")]


@pytest.mark.parametrize(("frozen", "words"), [(False, ""), (True, ", 1,100 of them frozen")])
def test_parameters_are_counted(caplog, frozen, words):
    model = nn.Sequential(nn.Linear(10, 100), nn.Linear(100, 1))
    model[0].requires_grad_(not frozen)
    ModelSize().on_fit_start(None, SimpleNamespace(model=model))
    assert lines(caplog) == ["model: Sequential, 1,201 parameters" + words]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "ours", "table"),
    [
        ([], 1, False),
        pytest.param(["--trainer.enable_model_summary", "false"], 0, False, marks=pytest.mark.slow),
        pytest.param(
            ["--trainer.callbacks", "pytorch_lightning.callbacks.RichModelSummary"],
            *(0, True),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_training_has_one_summary_or_none(monkeypatch, caplog, capsys, flags, ours, table):
    monkeypatch.chdir(Path(__file__).resolve().parents[3])
    words = ["fit", "--config", "configs/quickstart/abmil.yaml", "--trainer.fast_dev_run", "true"]
    assert train.main([*words, *flags]) == 0
    assert len(lines(caplog)) == ours
    assert ("Total params" in capsys.readouterr().out) == table
