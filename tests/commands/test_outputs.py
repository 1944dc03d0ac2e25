"""What `evaluate.py` refuses to write, before any work, and arguments that cannot be meant."""

import json
import os

import pytest

import commands._outputs
import evaluate
from evaluate import build_parser

FILES = ("c.ckpt", "d.ckpt", "a.json", "p.json", "q.json", "bags.csv", "bags.npz", "r.yaml",
         "data.yaml", "images/1.png", "features/s.h5", "run/predictions/test.json",
         "run/config.yaml", "root/annotations/instances_val.json", "root/1.png")  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Files that commands may read, in the working folder."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "linked.json").symlink_to("a.json")
    os.link(tmp_path / "p.json", tmp_path / "twin.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(words):
    args, args.overrides = build_parser().parse_known_args(words.split())
    commands._outputs.check_outputs(args)


SCORE = "coco --predictions p.json --annotations a.json"
PREDICT = "coco --ckpt c.ckpt --annotations a.json"
POINTS = "operating-point --ckpt c.ckpt d.ckpt --annotations a.json"
TO_COCO = "convert --from yolo --to coco --data data.yaml --split val"
TO_YOLO = "convert --from coco --to yolo --annotations a.json --images images"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (f"{SCORE} --out a.json", "--out a.json is the file of --annotations and would replace it"),
        (f"{SCORE} --out ./images/../a.json", "is the file of --annotations"),
        (f"{SCORE} --out linked.json", "--out linked.json is the file of --annotations"),
        (f"{SCORE} --out twin.json", "--out twin.json is the file of --predictions"),
        (f"{PREDICT} --save-predictions c.ckpt", "is the file of --ckpt"),
        (f"{PREDICT} --save-predictions images", "--save-predictions images is a folder; name a"),
        (f"{PREDICT} --save-predictions o.json --out ./o.json", "cannot both be written"),
        (f"{PREDICT} --save-predictions o --out o/p.json", "cannot both be written"),
        (f"{PREDICT} --save-predictions o/p.json --out o", "cannot both be written"),
        (f"{PREDICT} --images images --out images/1.png", "already exists among the files of"),
        (f"{POINTS} --out d.ckpt", "--out d.ckpt is the file of --ckpt"),
        (f"{POINTS} --out o.png --curves o.png", "--curves o.png and --out o.png cannot both"),
        (f"{POINTS} --out a.json/o.json", "a.json is not a folder; name a file in a folder"),
        (f"{POINTS} --out /dev/null", "/dev/null is not a regular file; name a file"),
        ("export --ckpt c.ckpt --out c.ckpt", "--out c.ckpt is the file of --ckpt"),
        ("export --ckpt c.ckpt --out m.onnx --report c.ckpt", "--report c.ckpt is the file of"),
        ("export --ckpt c.ckpt --out m --report m", "--report m and --out m cannot both"),
        ("latency --ckpt c.ckpt --out c.ckpt", "--out c.ckpt is the file of --ckpt"),
        ("mil --ckpt c.ckpt --data bags.npz --out bags.npz", "is the file of --data"),
        ("mil --predictions bags.csv --out bags.csv", "is the file of --predictions"),
        ("mil --ckpt c.ckpt --data bags.csv --features features --out features/s.h5", "among the"),
        ("mil-cv --config r.yaml --data bags.npz --out r.yaml", "is the file of --config"),
        ("mil-assumptions --model r.yaml --out r.yaml", "is the file of --model"),
        ("compare --predictions p.json q.json --out q.json", "is the file of --predictions"),
        ("compare --predictions run q.json --out run/predictions/test.json", "already exists"),
        ("compare --predictions run q.json --out run/config.yaml", "already exists among"),
        ("check-data --config r.yaml --out r.yaml", "is the file of --config"),
        ("check-data --config r.yaml --data.file bags.npz --out bags.npz", "of --data.file"),
        ("check-data --config r.yaml --data.file=bags.npz --out bags.npz", "of --data.file"),
        (
            "check-data --config r.yaml --data.root root --out root/annotations/instances_val.json",
            "among the files of --data.root root; name a new file",
        ),
        (f"{TO_COCO} --out data.yaml", "--out data.yaml is the file of --data"),
        (f"{TO_COCO} --root root --out root/1.png", "among the files of --root"),
        (f"{TO_COCO} --out o.json --report o.json", "--report o.json and --out o.json cannot"),
        (f"{TO_YOLO} --out a.json", "--out a.json is a file; name a folder for the YOLO set"),
        (f"{TO_YOLO} --out new --report a.json", "--report a.json is the file of --annotations"),
        (f"{TO_YOLO} --out new --report new", "--report new is the file of --out"),
    ],
)
def test_what_would_be_lost_is_refused(folder, words, message):
    with pytest.raises(ValueError) as caught:
        check(words)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all((folder / name).read_text() == name for name in FILES)


@pytest.mark.parametrize(
    "words",
    [
        f"{SCORE} --out images/new/o.json",
        f"{SCORE} --out q.json",
        f"{PREDICT} --images images --out images/o.json --save-predictions images/p.json",
        f"{POINTS} --images images --out o/o.json --curves o/o.png",
        "compare --predictions run q.json --out run/report.json",
        "check-data --config r.yaml --data.root root --out root/report.json",
        f"check-data --config r.yaml --text {'x' * 5000} --out q.json",
        f"{TO_COCO} --root root --out root/annotations/instances_val.json",
        f"{TO_YOLO} --out new --report new/report.json",
        f"{TO_YOLO} --out root",
        "mil-cv --config r.yaml --data bags.npz",
    ],
)
def test_other_files_may_be_written(folder, words):
    (folder / "images" / "o.json").write_text("an earlier report")
    (folder / "root" / "report.json").write_text("an earlier report")
    (folder / "run" / "report.json").write_text("an earlier report")
    check(words)


def test_a_folder_that_may_not_be_written_in(folder, monkeypatch):
    monkeypatch.setattr(commands._outputs.os, "access", lambda path, mode: path.name != "run")
    with pytest.raises(ValueError, match=r"--out run/new/o.json: no permission to write in .*run;"):
        check(f"{SCORE} --out run/new/o.json")
    check(f"{SCORE} --out new/o.json")


def test_a_refusal_is_one_line_with_code_2_before_any_work(folder, capsys):
    truth = {"images": [], "categories": [], "annotations": []}
    (folder / "a.json").write_text(json.dumps(truth))
    (folder / "p.json").write_text("[]")
    assert evaluate.main([*SCORE.split(), "--out", "a.json"]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: --out a.json is the file of --annotations")
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert json.loads((folder / "a.json").read_text()) == truth
    assert evaluate.main([*SCORE.split(), "--save-predictions", "o.json"]) == 2
    assert "--save-predictions writes what a checkpoint predicts" in capsys.readouterr().err


CV = "mil-cv --config r.yaml --data bags.npz"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (f"{POINTS} --score 1.5", "--score: a confidence is in [0, 1], got 1.5"),
        (f"{POINTS} --score nan", "--score: a confidence is in [0, 1], got nan"),
        (f"{POINTS} --score half", "--score: must be a number, got 'half'"),
        (f"{POINTS} --iou 0", "--iou: an overlap is in (0, 1], got 0"),
        (f"{POINTS} --iou 1.01", "--iou: an overlap is in (0, 1], got 1.01"),
        (f"{POINTS} --warmup -1", "--warmup: must not be negative, got -1"),
        (f"{POINTS} --pictures abc", "--pictures: must be a whole number, got 'abc'"),
        (f"{POINTS} --pictures 2.5", "--pictures: must be a whole number, got '2.5'"),
        (f"{POINTS} --seed x", "--seed: must be a whole number, got 'x'"),
        (f"{POINTS} --seed -1", "--seed: a seed is not negative, got -1"),
        (f"{POINTS} --curves c.txt", "a figure is written as .png, .pdf, .svg; got 'c.txt'"),
        (f"{PREDICT} --scale twice", "--scale: must be a number, got 'twice'"),
        (f"{PREDICT} --tta-scales 1 17", "--tta-scales: a factor on the size of images is in"),
        (f"{PREDICT} --tile -5", "--tile: must not be negative, got -5"),
        (f"{PREDICT} --tile-overlap 0", "--tile-overlap: must be positive, got 0"),
        (f"{PREDICT} --batch-size 0", "--batch-size: must be positive, got 0"),
        (f"{SCORE} --max-dets 0", "--max-dets: must be positive, got 0"),
        ("compare --predictions a b --max-dets 0", "--max-dets: must be positive, got 0"),
        ("compare --predictions a b --threshold 2", "--threshold: a threshold is a probability"),
        ("compare --predictions a b --draws 0", "--draws: must be positive"),
        (
            "mil --predictions a --threshold -0.1",
            "a threshold is a probability in [0, 1], got -0.1",
        ),
        ("mil --predictions a --draws many", "--draws: must be a whole number, got 'many'"),
        (f"{CV} --folds 0", "--folds: must be positive, got 0"),
        (f"{CV} --repeats 0", "--repeats: must be positive, got 0"),
    ],
)
def test_arguments_that_cannot_be_meant(words, message, capsys):
    assert evaluate.main(words.split()) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("words", [f"{POINTS} --score 0 --iou 1", f"{POINTS} --score 1 --warmup 0"])
def test_the_ends_of_the_ranges_are_arguments(words):
    build_parser().parse_args(words.split())
