"""The study trains what is missing, and nothing twice."""

import json
import multiprocessing
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from benchmarks.wsi_mil import methods, run
from benchmarks.wsi_mil.bags import Slides, SlideSet


@pytest.fixture
def small(monkeypatch):
    """Let slides have a few dozen instances, and trainings two epochs of a dozen bags."""
    counts = {"train": 12, "test": 8, "large": 10}
    slides = Slides(sizes=(30, 60))
    made = lambda seed, split, ratio, _: SlideSet(seed, split, ratio, slides, counts[split])  # noqa: E731
    monkeypatch.setattr(run, "slide_set", made)
    monkeypatch.setattr(methods, "EPOCHS", 2)
    monkeypatch.setattr(run, "SEEDS", (1,))
    monkeypatch.setattr(run, "RATIOS", (1,))


def call(monkeypatch, folder, *arguments):
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr("sys.argv", ["run.py", "--results", str(folder), *arguments])
    return run.main()


@pytest.mark.slow
def test_a_run_is_made_once_and_again_where_its_settings_changed(
    small, monkeypatch, tmp_path, capsys
):
    assert call(monkeypatch, tmp_path, "--only", "abmil", "aem") == 0
    text = capsys.readouterr().out
    assert "aem 1:1 seed 1: " in text
    assert "| 1:1 | AEM | ABMIL |" in text
    files = sorted(tmp_path.glob("*.json"))
    assert [file.name for file in files] == ["abmil-1-1.json", "aem-1-1.json"]
    assert (tmp_path / "differences.png").is_file()
    before = json.loads(files[1].read_text())
    assert not list(tmp_path.glob(".*"))

    made = []
    real = run.run
    monkeypatch.setattr(run, "run", lambda *a: made.append(a[:3]) or real(*a))
    call(monkeypatch, tmp_path, "--only", "abmil", "aem")
    assert made == []
    files[1].unlink()  # as if the study had been interrupted
    call(monkeypatch, tmp_path, "--only", "abmil", "aem")
    assert made == [("aem", 1, 1)]
    after = json.loads(files[1].read_text())
    assert all(before[part] == after[part] for part in ("train", "test", "large"))  # to the bit
    monkeypatch.setattr(methods, "RATE", 0.01)
    call(monkeypatch, tmp_path, "--only", "aem")
    assert made[1:] == [("aem", 1, 1)]
    made.clear()
    call(monkeypatch, tmp_path, "--report")
    assert made == []


def test_a_student_begins_with_the_weights_of_the_plain_run(small, monkeypatch, tmp_path):
    begun = []
    real = run.train_fold

    def spied(fold, bags, recipe):
        if hasattr(fold.module, "mhim"):
            teacher = fold.module.mhim.teacher.state_dict()
            begun.append({n: v.clone() for n, v in teacher.items()})
        real(fold, bags, recipe)

    monkeypatch.setattr(run, "train_fold", spied)
    call(monkeypatch, tmp_path, "--only", "mhim:1:1")  # trains the plain model first
    plain = torch.load(tmp_path / "plain-1-1.pt", weights_only=True)
    assert all(torch.equal(begun[0][n], value) for n, value in plain.items())
    seen = json.loads((tmp_path / "mhim-1-1.json").read_text())
    assert 0 <= seen["masking_begin"]["kept_share"] <= 1
    fresh = run.train("plain", 1, 1, tmp_path)[0].model.state_dict()
    assert all(torch.equal(fresh[n], value) for n, value in plain.items())


@pytest.mark.slow
def test_a_student_is_the_same_whether_the_plain_model_was_there_or_not(
    small, monkeypatch, tmp_path
):
    call(monkeypatch, tmp_path / "at once", "--only", "mhim:1:1")
    call(monkeypatch, tmp_path / "apart", "--only", "plain:1:1")
    call(monkeypatch, tmp_path / "apart", "--only", "mhim:1:1")
    once, apart = (
        json.loads((tmp_path / name / "mhim-1-1.json").read_text()) for name in ("at once", "apart")
    )
    assert once["large"] == apart["large"]


def test_a_plain_model_without_its_weights_is_trained_again(small, monkeypatch, tmp_path):
    call(monkeypatch, tmp_path, "--only", "plain:1:1")
    assert run._missing([("mhim", 1, 1)], tmp_path) == [("mhim", 1, 1)]
    (tmp_path / "plain-1-1.pt").unlink()
    assert run._missing([("mhim", 1, 1)], tmp_path) == [("plain", 1, 1), ("mhim", 1, 1)]
    assert run._missing([("plain", 1, 1)], tmp_path) == []  # nothing asks for them


def test_two_processes_train_everything_once_and_first_stages_first(monkeypatch, tmp_path):
    monkeypatch.setattr(run, "ProcessPoolExecutor", lambda n, **_: ThreadPoolExecutor(n))
    events, lock, most = [], threading.Lock(), []

    def fake(name, negatives, seed, folder):
        with lock:
            events.append(("begins", name, seed))
            most.append(sum(1 if e[0] == "begins" else -1 for e in events))
        time.sleep(0.01)
        with lock:
            events.append(("ends", name, seed))
        return {"method": name, "negatives": negatives, "seed": seed}

    monkeypatch.setattr(run, "run", fake)
    jobs = [(name, 1, seed) for seed in (1, 2, 3) for name in ("plain", "mhim", "twice", "abmil")]
    found = list(run.run_missing(jobs, tmp_path, 2))
    assert sorted((r["method"], 1, r["seed"]) for r in found) == sorted(jobs)
    assert max(most) == 2
    for name in ("mhim", "twice"):
        for seed in (1, 2, 3):
            begun = events.index(("begins", name, seed))
            assert events.index(("ends", "plain", seed)) < begun


@pytest.mark.slow
def test_processes_give_what_one_gives(monkeypatch, tmp_path):
    slides = Slides(sizes=(30, 60))
    make = lambda seed, split, ratio, _: SlideSet(seed, split, ratio, slides, 8)  # noqa: E731
    monkeypatch.setattr(methods, "EPOCHS", 2)
    monkeypatch.setattr(run, "slide_set", make)
    if multiprocessing.get_start_method() != "fork":
        pytest.skip("small slides reach the processes by a fork alone")
    jobs = [("plain", 1, 1), ("mhim", 1, 1), ("abmil", 1, 1)]
    found = []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        results = list(run.run_missing(jobs, folder, workers))
        found.append({r["method"]: r["large"]["logits"] for r in results})
    assert found[0] == found[1]


def test_a_method_that_does_not_exist_is_named(small, monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match="no method .'abmill'."):
        call(monkeypatch, tmp_path, "--only", "abmill")
    with pytest.raises(SystemExit, match="abmil:5 is not a run"):
        call(monkeypatch, tmp_path, "--only", "aem", "abmil:5")


@pytest.mark.parametrize("name", [n for n, m in methods.METHODS.items() if m.begins_with])
def test_a_student_begins_where_its_plain_model_began(name, small, monkeypatch, tmp_path):
    begun = []

    def noted(fold, bags, recipe):
        model = fold.module.model
        student = getattr(model, "student", model)
        begun.append({n: v.clone() for n, v in student.state_dict().items()})

    monkeypatch.setattr(run, "train_fold", noted)
    first = methods.METHODS[name].begins_with
    run.run(first, 1, 1, tmp_path)
    run.train(name, 1, 1, tmp_path)
    assert len(begun[0]) >= 5
    assert all(torch.equal(begun[1][n], value) for n, value in begun[0].items())
