"""The table of the algorithmic unit tests: complete, resumable, and what its page shows runs."""

import re
from pathlib import Path

import pytest
import torch

from benchmarks.mil import assumptions as command
from benchmarks.mil.assumption_rows import ROWS, Row, rows
from benchmarks.mil.assumption_table import (
    BEGIN,
    END,
    PROPERTIES,
    cell,
    line,
    spread,
    summary,
    table,
    written,
)
from evaluation.mil_assumptions.adapters import import_model
from evaluation.mil_assumptions.suite import AssumptionReport, SeedResult
from evaluation.mil_assumptions.training import AssumptionSettings
from tests.support.methods_table import class_of
from tests.support.mil_recipes import NAMES, ROOT

TINY = AssumptionSettings(tests=(1,), seeds=2, train_bags=32, test_bags=16, epochs=1)
PAGE = ROOT / "docs/mil_assumptions.md"


def report(results, seeds):
    settings = AssumptionSettings(seeds=seeds)
    return AssumptionReport("Learner", "recipe", "", settings, tuple(results), None, 1.0)


def test_every_model_with_a_recipe_has_a_row_in_the_document():
    listed = {row.learner for row in rows()}
    assert listed == {class_of(name).__name__ for name in NAMES}
    content = (ROOT / "docs/METHODS.md").read_text().partition(BEGIN)[2].partition(END)[0]
    names = [line.split(" | ")[0].removeprefix("| ") for line in content.splitlines()]
    for row in rows():
        assert row.name in names, f"{row.name}: run `python benchmarks/mil/assumptions.py --write`"


def test_a_class_without_a_row_gets_its_recipe(monkeypatch):
    few = [row for row in ROWS if row.learner != "DTFD"]
    monkeypatch.setattr("benchmarks.mil.assumption_rows.ROWS", few)
    assert [(row.name, row.recipe, row.init_args) for row in rows()[len(few) :]] == [
        ("DTFD", "dtfd", {})
    ]


def test_files_of_rows_do_not_collide():
    names = [str(command.file_of(Path(), (row, 1, 0))) for row in rows()]
    assert len(set(names)) == len(names)


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.recipe)
def test_small_forms_train(row):
    """A step on bags of 45: arguments fit the recipe, and the loss reaches something."""
    model = row.build()(0)
    stages = [stage for stage in (model.first_stage(), model) if stage is not None]
    bags, labels = list(torch.randn(4, 45, 16)), torch.tensor([0, 1, 0, 1])
    for stage in stages:
        stage.before_training(labels, torch.full((4,), 45))
        stage.before_step(0.5, torch.arange(4))
        stage.loss(bags, labels).backward()
        gradients = [p.grad for p in stage.module.parameters() if p.grad is not None]
        assert any(bool(gradient.any()) for gradient in gradients)


def test_a_run_that_was_stopped_goes_on_and_other_settings_begin_anew(tmp_path):
    row = Row("mi-Net", "mi_net", {"hidden_sizes": [4]})
    jobs = [(row, 1, seed) for seed in range(2)]
    lines = list(command.run(jobs, tmp_path, TINY, 1))
    assert [re.sub(r"[\d.]+ / .*", "", line) for line in lines] == [
        "mi-Net, test 1, seed 0: ",
        "mi-Net, test 1, seed 1: ",
    ]
    first = command.finished(tmp_path, jobs[0], TINY)
    assert list(command.run(jobs, tmp_path, TINY, 1)) == []
    command.file_of(tmp_path, jobs[0]).unlink()
    (line,) = command.run(jobs, tmp_path, TINY, 1)
    assert "seed 0" in line
    again = command.finished(tmp_path, jobs[0], TINY)
    for found in (first["found"], again["found"]):
        found.pop("seconds")
    assert again == first
    longer = AssumptionSettings(tests=(1,), seeds=2, train_bags=32, test_bags=16, epochs=2)
    wider = Row("mi-Net", "mi_net", {"hidden_sizes": [5]})
    assert command.finished(tmp_path, jobs[0], longer) is None
    assert command.finished(tmp_path, (wider, 1, 0), TINY) is None
    assert command.report_of(row, tmp_path, TINY) is None  # the structural tests are missing


def test_cells_tell_areas_verdict_and_votes_that_differ():
    results = [
        SeedResult(1, 0, 1.0, 0.996, "PASS", 2.0, None),
        SeedResult(1, 1, 0.998, 0.999, "PASS", 3.0, None),
        SeedResult(2, 0, 1.0, 0.25, "VIOLATION", 4.0, None),
        SeedResult(2, 1, 1.0, 0.75, "INCONCLUSIVE", 51.0, None),
    ]
    told = report(results, 2)
    assert cell(told, 1) == "1.00 / 1.00 PASS"
    assert cell(told, 2) == "1.00 / .50 (.25 to .75) INCONCLUSIVE (V I)"
    assert cell(told, 3) == "-"
    assert spread([0.004]) == ".00"
    text = summary(results, told)
    assert "4 trainings on 2000 training and 1000 test bags of 45 instances, 12 epochs" in text
    assert "seeds 0, 1; 1 minutes in all, 4.0 s the median one" in text


def test_a_verdict_needs_every_seed():
    passed = [SeedResult(t, s, 1.0, 1.0, "PASS", 1.0, None) for t in (1, 2, 3) for s in (0, 1)]
    holds = {name: {"status": "holds"} for name in PROPERTIES}
    assert cell(report(passed, 2), 1) == "1.00 / 1.00 PASS"
    assert cell(report(passed, 3), 1) == "1.00 / 1.00 (P P, 2 of 3 seeds)"
    assert line("a", report(passed, 2), holds).endswith("| yes | yes |")
    assert line("a", report(passed, 3), holds).endswith("| open | open |")
    assert line("a", report(passed[:-1], 2), holds).endswith("| open | open |")
    cheats = [*passed[:-1], SeedResult(3, 1, 1.0, 0.0, "VIOLATION", 1.0, None)]
    assert line("a", report(cheats, 3), holds).endswith("| no | no |")


def test_the_document_is_never_written_from_a_part(tmp_path, capsys):
    results = ["--results", str(tmp_path)]
    for words, said in (
        (["--only", "mi_net", "--write"], "leave out --only"),
        (["--only", "mi_nett", "mi_net"], "no row has the recipe mi_nett"),
    ):
        with pytest.raises(SystemExit):
            command.main([*results, *words])
        assert said in capsys.readouterr().err


def test_the_table_says_what_the_form_allows_and_what_follows():
    holds = {name: {"status": "holds"} for name in PROPERTIES}
    fails = holds | {"duplication": {"status": "fails"}, "gradient_sign": {"status": "n/a"}}
    good = report((SeedResult(t, 0, 1.0, 1.0, "PASS", 1.0, None) for t in (1, 2, 3)), 1)
    bad = report([SeedResult(1, 0, 1.0, 0.0, "VIOLATION", 1.0, None)], 1)
    lines = table({"good": (good, holds), "bad": (bad, fails)}).splitlines()
    assert lines[0].startswith("| model | test 1: train / test AUC |")
    assert {line.count("|") for line in lines} == {12}
    assert lines[2].endswith("| yes | yes | yes | yes | yes | yes | yes |")
    assert lines[3] == "| bad | 1.00 / .00 VIOLATION | - | - | yes | yes | yes | no | - | no | no |"


def test_the_document_changes_between_its_markers_alone():
    document = f"a\n{BEGIN}\nold\n{END}\nb\n"
    assert written(document, "new") == f"a\n{BEGIN}\nnew\n{END}\nb\n"
    assert written(written(document, "new"), "old") == document
    with pytest.raises(ValueError, match="needs the lines"):
        written("a", "new")


def test_the_code_of_the_page_runs(tmp_path, monkeypatch, capsys):
    source, again = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "modules_of_the_page.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    single = import_model("modules_of_the_page.Single")
    padded = import_model("modules_of_the_page.Padded", {"width": 64})
    assert (single.adapter, padded.adapter) == ("bag", "batch")
    bags = [torch.randn(3, 16), torch.randn(5, 16)]
    with torch.no_grad():
        torch.testing.assert_close(single(1).logits(bags), padded(1).logits(bags))
    few = "AssumptionSettings(train_bags=16, test_bags=8, epochs=1)"
    again = again.replace("my_models", "modules_of_the_page").replace("AssumptionSettings()", few)
    assert few in again
    exec(again, {})
    assert re.match(r"tensor\(\[.+, .+\]", capsys.readouterr().out)
