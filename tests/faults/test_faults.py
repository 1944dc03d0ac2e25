"""Tests of the corpus of broken inputs, of the valid inputs, and of the judge."""

import json
import os
from collections import Counter

import pytest

from tests.faults import bags, checkpoints, extraction, features, foreign, sets, yolo
from tests.faults.__main__ import run_case
from tests.faults.case import MARKER, ROOT, Case, Outcome, judge, run_here, words_of
from tests.faults.corpus import APART, CASES


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.slow
def test_names_are_unique_and_every_command_has_a_case_of_its_own(tmp_path):
    names = Counter(map(str, CASES))
    assert [name for name, count in names.items() if count > 1] == []
    assert len(CASES) >= 120
    commands = set()
    for number, case in enumerate(APART):
        folder = tmp_path / str(number)
        folder.mkdir()
        commands.add(tuple(words_of(case, folder)[:2]))
    assert {command for _, command in commands} == {
        "fit", "validate", "test", "predict",
        "check-data", "coco", "operating-point", "mil", "mil-cv", "compare", "convert",
        "convert-features", "open-world", "make-split", "pseudo-labels",
        "camelyon-splits", "froc", "pn-stage",
    }  # fmt: skip
    started = [words_of(case, tmp_path)[0] for case in ONE_PER_PROGRAM]
    assert started == ["train", "evaluate"]


def marked(number, case):
    """A case takes a fifth of a second and there are a thousand: seven of eight are slow tests."""
    slow = case.long or number % 8
    return pytest.param(case, id=str(case), marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize("case", [marked(*each) for each in enumerate(CASES)])
def test_refused_with_one_message_and_code_2(case):
    faults, message = run_case(case)
    assert faults == [], message


# Starting Python takes seconds: `make faults` does it for every command, this test for one case per
# program. The commands are tested in this process above.
ONE_PER_PROGRAM = [c for c in APART if str(c) in ("config: a tab", "annotations: cut in half")]
ONE_PER_PROGRAM.sort(key=str, reverse=True)


@pytest.mark.slow
@pytest.mark.parametrize("case", ONE_PER_PROGRAM, ids=str)
def test_refused_in_a_process_of_its_own(case):
    faults, message = run_case(case, apart=True)
    assert faults == [], message


def scores(folder, command):
    files = folder / "truth.json", folder / "found.json"
    for file, content in zip(files, (sets.truth(), sets.results()), strict=True):
        file.write_text(json.dumps(content))
    return ["evaluate", command, "--annotations", files[0], "--predictions", files[1]]


def table(folder):
    (folder / "bags.csv").write_text("bag_id,label,score\na,1,0.9\nb,0,0.2\nc,1,0.7\nd,0,0.4\n")
    return ["evaluate", "mil", "--draws", 10, "--predictions", folder / "bags.csv"]


def slides(folder):
    features.write_set(folder)
    return features.crossed(folder)


def coco(folder):
    return [*sets.COCO, "--data.root", sets.write_coco(folder)]


def converted(folder):
    root = sets.write_coco(folder)
    where = ["--annotations", root / "annotations/instances_train.json"]
    where += ["--images", root / "images/train", "--out", folder / "yolo", "--skip-crowds"]
    return ["evaluate", "convert", "--from", "coco", "--to", "yolo", *where]


def crossed(folder):
    return bags.crossed(folder, sets.write_bags(folder / "bags.npz"))


def checkpoint(use, of=sets.mil_checkpoint):
    return lambda folder: use(folder, of())


SOUND = {
    "coco": lambda folder: scores(folder, "coco"),
    "operating point": lambda folder: scores(folder, "operating-point"),
    "bag CSV": table,
    "npz of bags": crossed,
    "slides": slides,
    "slides to extract": extraction.sound,
    "fit on COCO": coco,
    "fit on bags": lambda folder: [*sets.MIL, "--data.file", sets.write_bags(folder / "b.npz")],
    "COCO to YOLO": converted,
    "YOLO to COCO": lambda folder: yolo.converted(yolo.write_yolo(folder)),
    "check COCO": lambda folder: ["evaluate", "check-data", *yolo.coco_words(lambda _: 0)(folder)],
    # what first users met as faults, and what is none
    "a Roboflow export, its root category unused": lambda folder: [
        "evaluate", "check-data", *yolo.coco_words(foreign.roboflow)(folder)],
    "a YOLO set that declares a test folder it lacks": lambda folder: foreign.yolo_case(
        "", foreign.without_test).build(folder),
    "checkpoint scored": checkpoint(checkpoints.scored),
    "checkpoint resumed": checkpoint(checkpoints.resumed),
    "checkpoint predicting": checkpoint(checkpoints.predicted),
    "checkpoint as weights": checkpoint(checkpoints.started),
    "checkpoint for images": checkpoint(checkpoints.detected, sets.seg_checkpoint),
}  # fmt: skip


@pytest.mark.parametrize("name", SOUND)
def test_the_sound_input_is_taken(name, tmp_path):
    """Otherwise every case that breaks it would pass for the wrong reason."""
    outcome = run_here(words_of(Case("sound", name, SOUND[name], ()), tmp_path), 60)
    assert outcome.code == 0, outcome.err


GOOD = Outcome(2, "", "Seed set to 0\nerror: bags.csv: no such file; give its path\n", 0.1)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, None),
        ({"code": 0}, "exit code 0"),
        ({"code": 1}, "exit code 1"),
        ({"code": None}, "did not end"),
        ({"err": ""}, "0 messages"),
        ({"err": GOOD.err * 2}, "2 messages"),
        ({"err": GOOD.err + "Traceback (most recent call last):\n"}, "Traceback"),
        ({"out": "Traceback (most recent call last):\n"}, "Traceback"),
        ({"err": GOOD.err + "KeyError: 'x'\n"}, "KeyError"),
        ({"err": "error: bags.csv: " + "no such file; " * 400}, "characters"),
        ({"err": "error: bags.csv: gone\n"}, "lacks 'no such file'"),
    ],
)
def test_the_judge_sees_each_breach(tmp_path, changes, fault):
    case = Case("kind", "name", lambda _: [], ("bags.csv", "no such file"))
    values = {name: getattr(GOOD, name) for name in ("code", "out", "err", "seconds")}
    faults = judge(case, Outcome(**values | changes), tmp_path)
    assert bool(faults) == (fault is not None)
    assert fault is None or any(fault in found for found in faults)


def test_the_judge_sees_a_trained_run_and_code_that_ran(tmp_path):
    case = Case("kind", "name", lambda _: [], ())
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "last.ckpt").touch()
    (tmp_path / MARKER).touch()
    assert judge(case, GOOD, tmp_path) == ["trained", "ran code that a file carries"]
    (tmp_path / "runs" / "a" / "last.ckpt").unlink()
    assert judge(case, GOOD, tmp_path) == ["left a run behind", "ran code that a file carries"]


def test_a_hang_is_ended_and_what_leaves_main_is_caught(monkeypatch):
    import evaluate

    def endless(argv):
        os.write(2, b"written past Python\n")
        while True:
            pass

    monkeypatch.setattr(evaluate, "main", endless)
    outcome = run_here(["evaluate"], 0.2)
    assert outcome.code is None
    assert outcome.err == "written past Python\n"
    monkeypatch.setattr(evaluate, "main", lambda argv: {}["missing"])
    outcome = run_here(["evaluate"], 5)
    assert outcome.code is None
    assert "KeyError" in outcome.err
