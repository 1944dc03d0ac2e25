"""What the documents claim can be run as it stands."""

import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml

import evaluate
from structures import BagBatch
from tests.support.layers import FOLDERS

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


@pytest.mark.parametrize("line", list(commands()))
def test_commands_name_files_and_flags_that_exist(line):
    words = shlex.split(line)[1:]
    assert (ROOT / words[0]).is_file()
    configs = [w for w in words if w.startswith("configs/")]
    assert all((ROOT / c).is_file() for c in configs)
    if words[0] == "evaluate.py":
        known, others = evaluate.build_parser().parse_known_args(words[1:])
        # Others are flags of a recipe.
        assert getattr(known.module, "TAKES_OVERRIDES", False) or not others


def test_the_worked_example_of_a_new_model_runs(tmp_path, monkeypatch):
    source = blocks(ROOT / "CONTRIBUTING.md", "python")[0]
    recipe = yaml.safe_load(blocks(ROOT / "CONTRIBUTING.md", "yaml")[0])
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


def cited_assumptions():
    cited = set()
    for path in ROOT.glob("*.py"):
        cited |= set(re.findall(r"\b(A\d+)\b", path.read_text()))
    for folder in (*FOLDERS, "configs", "benchmarks"):
        for path in (p for e in ("py", "yaml", "js") for p in (ROOT / folder).rglob(f"*.{e}")):
            cited |= set(re.findall(r"\b(A\d+)\b", path.read_text()))
    return cited


def assumption_rows():
    lines = (ROOT / "docs/ASSUMPTIONS.md").read_text().splitlines()
    found = [(re.match(r"\| (A\d+) \|", line), line) for line in lines]
    return [(match.group(1), line) for match, line in found if match]


def test_every_assumption_cited_in_code_has_a_row():
    numbers = [number for number, _ in assumption_rows()]
    assert cited_assumptions() <= set(numbers)
    assert len(numbers) == len(set(numbers))


def test_assumptions_about_models_are_cited_and_name_tests_that_exist():
    sources = [p.read_text() for p in (ROOT / "tests").rglob("*.py")]
    functions = {f for text in sources for f in re.findall(r"def (test_\w+)", text)}
    cited = cited_assumptions()
    for number, line in assumption_rows():
        if int(number[1:]) < 86:  # earlier rows are about whole parts of the code
            continue
        assert number in cited, f"{number} is cited nowhere"
        test = line.rstrip("| ").rpartition(" | ")[2]
        named = re.findall(r"`(tests/[\w/.]+|test_\w+)`", test)
        assert named, f"{number} names no test"
        for name in named:
            known = name in functions or (ROOT / name).exists()
            assert known, f"{number} names {name}, which does not exist"


def test_the_defects_of_others_are_tested():
    sources = [p.read_text() for p in (ROOT / "tests").rglob("*.py")]
    functions = {f for text in sources for f in re.findall(r"def (test_\w+)", text)}
    section = (
        (ROOT / "docs/METHODS.md").read_text().partition("Defects of other implementations")[2]
    )
    rows = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 12
    for row in rows[1:]:
        named = re.findall(r"`(test_\w+)`", row)
        assert named, row
        assert set(named) <= functions, row
