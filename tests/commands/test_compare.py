"""`evaluate.py compare` as a user types it."""

import json

import numpy as np
import pytest

import evaluate
from evaluation.seg.coco_bootstrap import compare_images
from tests.evaluation.seg.test_coco_backends import random_case

HEAD = "bag_id,label,score\n"


def run(*arguments):
    return evaluate.main([str(a) for a in arguments])


@pytest.fixture
def tables(tmp_path):
    """Two tables of 40 bags in different order, and a function that writes others."""
    random = np.random.default_rng(0)
    labels = np.arange(40) % 2
    common = random.random(40) * 0.6 + labels * 0.2

    def write(name, header, rows):
        path = tmp_path / name
        path.write_text(header + "".join(",".join(map(str, row)) + "\n" for row in rows))
        return path

    paths = []
    for name in ("one", "two"):
        scores = np.clip(common + random.random(40) * 0.2, 0, 1).tolist()
        rows = [(f"bag {n}", labels[n], scores[n]) for n in random.permutation(40)]
        paths.append(write(f"{name}.csv", HEAD, rows))
    return paths, write


def compared(tmp_path, *arguments):
    out = tmp_path / "out.json"
    assert run("compare", *arguments, "--out", out) == 0
    return json.loads(out.read_text())


def test_bags(tables, tmp_path, capsys):
    (one, two), _ = tables
    words = ["--draws", 200, "--seed", 3]
    found = compared(tmp_path, "--predictions", one, two, *words, "--threshold", 0.4, 0.6)
    shown = capsys.readouterr().out
    assert "DeLong" in shown
    assert f"A: {one}" in shown
    assert found["thresholds"] == [0.4, 0.6]
    for path, threshold in ((one, 0.4), (two, 0.6)):
        out = tmp_path / "alone.json"
        more = ["--predictions", path, "--threshold", threshold]
        assert run("mil", *words, *more, "--out", out) == 0
        alone = json.loads(out.read_text())
        assert found["metrics"][str(path)] == pytest.approx(alone["metrics"])
        if path == one:  # whose order of bags is kept
            assert found["intervals"][str(path)] == alone["intervals"]
        assert found["files"][str(path)] == alone["files"][str(path)]
    values = [found["metrics"][str(path)]["bag_auroc"] for path in (one, two)]
    difference, test = found["difference"]["bag_auroc"], found["delong"]["bag_auroc"]
    assert difference["value"] == pytest.approx(values[0] - values[1])
    assert test["value"] == pytest.approx(values[0] - values[1])
    assert difference["low"] == pytest.approx(test["low"], abs=0.05)
    assert difference["high"] == pytest.approx(test["high"], abs=0.05)
    assert (found["bags"], found["draws"], found["seed"]) == (40, 200, 3)


def test_patients_leave_delong_out(tables, tmp_path, capsys):
    (one, two), write = tables
    rows = [line.split(",") for line in one.read_text().splitlines()[1:]]
    head = HEAD.replace("\n", ",patient_id\n")
    several = [(*row, f"p{int(row[0].split()[1]) // 4}") for row in rows]
    several = write("several.csv", head, several)
    found = compared(tmp_path, "--predictions", several, two, "--draws", 50)
    assert found["delong"] == {}
    assert found["patients"] == 10
    assert "assumes independent bags and is left out" in capsys.readouterr().out
    out = tmp_path / "alone.json"
    assert run("mil", "--predictions", several, "--draws", 50, "--out", out) == 0
    assert found["intervals"][str(several)] == json.loads(out.read_text())["intervals"]
    single = write("single.csv", head, [(*row, f"p {row[0]}") for row in rows])
    found = compared(tmp_path, "--predictions", single, two, "--draws", 50)
    assert list(found["delong"]) == ["bag_auroc"]


def test_classes_one_by_one(tables, tmp_path, capsys):
    _, write = tables
    random = np.random.default_rng(1)
    head = "bag_id,label,score_0,score_1,score_2\n"
    labels = np.arange(30) % 2  # the third class has no bag
    paths = [
        write(f"{k}.csv", head, [(n, labels[n], *random.dirichlet([1, 1, 1])) for n in range(30)])
        for k in range(2)
    ]
    found = compared(tmp_path, "--predictions", *paths, "--draws", 20)
    assert list(found["delong"]) == ["class 0", "class 1", "class 2"]
    assert found["delong"]["class 2"]["value"] is None
    mean = np.mean([found["delong"][f"class {c}"]["value"] for c in (0, 1)])
    assert found["difference"]["bag_auroc"]["value"] == pytest.approx(mean)
    shown = capsys.readouterr().out
    assert "note: class 2: no positive bag" in shown
    assert "withheld" not in shown
    assert "threshold" not in shown
    assert found["thresholds"] is None
    named = [
        write(f"named {k}.csv", path.read_text().replace("score_", "score_of "), [])
        for k, path in enumerate(paths)
    ]
    found = compared(tmp_path, "--predictions", *named, "--draws", 20)
    assert list(found["delong"]) == ["class of 0", "class of 1", "class of 2"]
    capsys.readouterr()
    out = tmp_path / "alone.json"
    assert run("mil", "--predictions", paths[0], "--draws", 20, "--out", out) == 0
    assert json.loads(out.read_text())["threshold"] is None
    assert "threshold" not in capsys.readouterr().out
    for words in (["mil", "--predictions", paths[0]], ["compare", "--predictions", *paths]):
        assert run(*words, "--threshold", 0.4) == 2
        assert "--threshold has no effect on predictions of several" in capsys.readouterr().err


def test_few_bags_patients_or_images_are_told(tables, tmp_path, capsys):
    (one, two), write = tables
    rows = [line.split(",") for line in one.read_text().splitlines()[1:]]
    positives = [row[0] for row in rows if row[1] == "1"]

    def note(left_out, *more):
        files = []
        for k, path in enumerate((one, two)):
            lines = [line.split(",") for line in path.read_text().splitlines()[1:]]
            kept = [[*line, *more[1:]] for line in lines if line[0] not in left_out]
            files.append(write(f"few {k}.csv", HEAD.replace("\n", "".join(more[:1]) + "\n"), kept))
        found = compared(tmp_path, "--predictions", *files, "--draws", 5)
        notes, difference = found["notes"], found["difference"]["bag_auroc"]
        test, intervals = found["delong"].get("bag_auroc", {}), found["intervals"].values()
        claims = [difference["p"], difference["low"], *(i["bag_auroc"][0] for i in intervals)]
        claims += [test[key] for key in ("p", "high") if test]
        assert {claim is None for claim in claims} == {bool(notes and "withheld" in notes[0])}
        assert difference["value"] is not None
        alone = tmp_path / "alone.json"
        assert run("mil", "--predictions", files[0], "--draws", 5, "--out", alone) == 0
        record = json.loads(alone.read_text())
        assert (record["intervals"]["bag_auroc"] == [None, None]) == bool(record["notes"])
        assert record["notes"] == notes[:1]
        assert all(f"note: {text}" in capsys.readouterr().out for text in notes[:1])
        return notes[0] if notes else ""

    assert note(positives[:10]) == ""  # ten are left
    assert note(positives[:11]).startswith("class 1 has 9 bags: intervals and p-values")
    assert note(positives[1:]).startswith("class 1 has 1 bag: ")
    assert note((), ",patient_id", "p").startswith("class 0 has 1 patient: ")
    truth, found = random_case(5)
    for image in truth["images"]:
        image["file_name"] = f"{image['id']}.png"
    files = [tmp_path / name for name in ("truth.json", "found.json")]
    for file, content in zip(files, (truth, found), strict=True):
        file.write_text(json.dumps(content))
    words = ["--predictions", files[1], files[1], "--annotations", files[0], "--draws", 5]
    count = len(truth["images"])
    assert compared(tmp_path, *words)["notes"][0].startswith(f"the ground truth has {count} image")


def test_a_file_beside_a_run_is_told_to_lack_a_threshold(tables, tmp_path, capsys):
    (one, two), _ = tables
    folder = tmp_path / "run" / "predictions"
    folder.mkdir(parents=True)
    two.rename(folder / "bags.csv")
    (tmp_path / "run" / "config.yaml").write_text("model: {init_args: {threshold: 0.3}}")
    found = compared(tmp_path, "--predictions", one, tmp_path / "run", "--draws", 5)
    assert found["thresholds"] == [0.5, 0.3]
    assert found["notes"] == [f"{one}: a single file has no threshold; threshold 0.5 is used"]
    (tmp_path / "run" / "config.yaml").unlink()
    found = compared(tmp_path, "--predictions", tmp_path / "run", tmp_path / "run", "--draws", 5)
    assert found["notes"][0].endswith("with the threshold; threshold 0.5 is used")
    assert len(found["notes"]) == 2  # the other is of DeLong's test
    assert capsys.readouterr().out.count("no config.yaml") == 1


def test_images(tmp_path):
    truth, rows = random_case(5)
    size = {"height": 20, "width": 20}
    truth["images"] += [{"id": 1000 + n, **size} for n in range(12)]  # enough for intervals
    for image in truth["images"]:
        image["file_name"] = f"{image['id']}.png"
    files = [tmp_path / name for name in ("truth.json", "one.json", "two.json")]
    worse = [{**row, "score": row["score"] ** 2} for row in rows[::2]]
    for file, content in zip(files, (truth, rows, worse), strict=True):
        file.write_text(json.dumps(content))
    found = compared(tmp_path, "--predictions", *files[1:], "--annotations", files[0],
                     "--draws", 20, "--seed", 3, "--max-dets", 1, 50)  # fmt: skip
    drawn = compare_images(truth, rows, worse, max_dets=(1, 50), draws=20, seed=3)
    low, high = drawn.intervals[0]["segm_map"]
    assert found["intervals"][str(files[1])]["segm_map"] == pytest.approx([low, high])
    again = compared(tmp_path, "--predictions", *files[1:], "--annotations", files[0], "--draws", 2)
    assert {"box_ar_1", "box_ar_10", "box_ar_100"} <= set(again["difference"])
    for file in files[1:]:
        out = tmp_path / "alone.json"
        words = ["--predictions", file, "--annotations", files[0], "--max-dets", 1, 50]
        assert run("coco", *words, "--out", out) == 0
        assert found["metrics"][str(file)] == json.loads(out.read_text())["metrics"]
    assert {"box_map", "segm_map", "box_ar_50"} <= set(found["difference"])
    assert found["pictures"] == len(truth["images"])


def test_a_file_against_itself(tables, tmp_path):
    (one, _), _ = tables
    found = compared(tmp_path, "--predictions", one, one, "--threshold", 0.3, 0.5, "--draws", 20)
    assert set(found["metrics"]) == {f"{one} (first)", f"{one} (second)"}
    assert found["difference"]["bag_auroc"] == {"value": 0, "low": 0, "high": 0, "p": 1}
    assert found["difference"]["bag_accuracy"]["value"] != 0
    assert "equally" in found["delong"]["bag_auroc"]["note"]


def test_bags_of_one_file_are_left_out_on_demand(tables, tmp_path, capsys):
    (one, two), write = tables
    rows = [line.split(",") for line in two.read_text().splitlines()[1:31]]
    short = write("short.csv", HEAD, rows)
    assert run("compare", "--predictions", one, short) == 2
    error = capsys.readouterr().err
    assert error.count("10 x is only in") == 1
    assert "Traceback" not in error
    faulty = write("faulty.csv", HEAD, [*rows, ("bag x", 1, "high")])
    found = compared(tmp_path, "--predictions", one, faulty, "--bad-data", "skip", "--draws", 9)
    assert found["bags"] == 30
    assert found["skipped"] == {str(faulty): 1 + 10}
    found = compared(tmp_path, "--predictions", faulty, one, "--bad-data", "skip", "--draws", 9)
    assert found["skipped"] == {str(faulty): 1 + 10}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{one}", "{flipped}"], "the other file says"),
        (["{one}", "{json}"], "--annotations"),
        (["{one}", "{two}", "--threshold", "1.5"], "--threshold"),
        (["{one}", "{two}", "--threshold", "0.1", "0.2", "0.3"], "--threshold"),
        (["{one}", "{two}", "--draws", "0"], "draws"),
        (["{one}", "{two}", "--max-dets", "5"], "--max-dets"),
        (["{json}", "{json}", "--annotations", "{json}", "--threshold", "0.5"], "--threshold"),
        (["{one}", "{json}", "--annotations", "{json}"], "COCO results"),
        (["{one}", "{missing}"], "missing.csv: no such file"),
        (["{one}", "{folder}"], "has no predictions/bags.csv"),
    ],
)
def test_wrong_input_ends_with_code_2(tables, tmp_path, capsys, words, message):
    (one, two), write = tables
    rows = [line.split(",") for line in two.read_text().splitlines()[1:]]
    names = {"one": one, "two": two, "json": tmp_path / "a.json", "folder": tmp_path,
             "missing": tmp_path / "missing.csv"}  # fmt: skip
    names["flipped"] = write("flipped.csv", HEAD, [(b, 1 - int(y), s) for b, y, s in rows])
    names["json"].write_text("[]")
    assert run("compare", "--predictions", *(word.format(**names) for word in words)) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
