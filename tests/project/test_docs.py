"""What the documents claim can be run as it stands."""

import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml

import evaluate
from structures import BagBatch

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(path, language):
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(), re.DOTALL)


def commands():
    for path in DOCUMENTS:
        for block in blocks(path, ""):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("python "):
                    yield pytest.param(line, id=f"{path.name}: {line[:60]}")


@pytest.mark.parametrize("line", commands())
def test_commands_name_files_and_flags_that_exist(line):
    words = shlex.split(line)[1:]
    assert (ROOT / words[0]).is_file()
    # METHODS.md invents a recipe for its worked example.
    configs = [w for w in words if w.startswith("configs/") and "mean_pooling" not in w]
    assert all((ROOT / c).is_file() for c in configs)
    if words[0] == "evaluate.py":
        known, others = evaluate.build_parser().parse_known_args(words[1:])
        assert known.command == "check-data" or not others  # those are flags of a recipe


def test_the_worked_example_of_a_new_learner_runs(tmp_path, monkeypatch):
    source = blocks(ROOT / "docs" / "METHODS.md", "python")[0]
    recipe = yaml.safe_load(blocks(ROOT / "docs" / "METHODS.md", "yaml")[0])
    namespace = {}
    exec(compile(source, "mean_pooling.py", "exec"), namespace)
    arguments = recipe["model"]["init_args"]["model"]["init_args"]
    model = namespace["MeanPooling"](2, 2, "binary", **arguments)
    bags = BagBatch(
        features=torch.tensor([[1.0, 2.0], [3.0, 0.0], [2.0, 1.0]]),
        offsets=torch.tensor([0, 2, 3]),
        labels=torch.tensor([1, 0]),
        index=torch.tensor([0, 1]),
    )
    with torch.no_grad():
        model.embed[0].bias.fill_(100.0)  # every unit is active, so the embedding is linear
    output = model(bags)
    torch.testing.assert_close(output.embeddings[0], output.embeddings[1])
    assert model.losses(output, bags)["bag"].ndim == 0


def test_every_assumption_cited_in_code_has_a_row():
    rows = set(re.findall(r"^\| (A\d+) \|", (ROOT / "docs/ASSUMPTIONS.md").read_text(), re.M))
    folders = ("structures", "models", "datamodules", "evaluation", "lightning_modules")
    folders += ("callbacks", "configs")
    cited = set()
    for folder in folders:
        for path in [*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.yaml")]:
            cited |= set(re.findall(r"\b(A\d+)\b", path.read_text()))
    assert cited <= rows
