"""`evaluate.py compare` of times, values and grades, as a user types it."""

import json

import numpy as np
import pytest
import torch

import evaluate

COUNT = 60
RANDOM = np.random.default_rng(0)
LEVEL = RANDOM.normal(size=COUNT)
TIME = np.ceil(RANDOM.exponential(10 * np.exp(-LEVEL))) + 1
EVENT = RANDOM.random(COUNT) < 0.7
ORDER = RANDOM.permutation(COUNT)


def run(*arguments):
    return evaluate.main([str(a) for a in arguments])


def read(tmp_path, command, *arguments):
    out = tmp_path / "out.json"
    assert run(command, *arguments, "--draws", 40, "--seed", 3, "--out", out) == 0
    return json.loads(out.read_text())


def write(path, header, rows, order=range(COUNT), patients=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [",".join([f"b{n}", *map(str, rows[n]), *[f"p{n // 2}"] * bool(patients)])
             for n in order]  # fmt: skip
    path.write_text("\n".join([f"bag_id,{header}{patients}", *lines]) + "\n")
    return path


def risks(noise, seed=1):
    return LEVEL + noise * np.random.default_rng(seed).normal(size=COUNT)


def of_times(path, risk, **more):
    survival = np.exp(-np.outer(np.exp(risk), [4.0, 20.0]) / 12).tolist()
    rows = [(t, int(e), r, *s)
            for t, e, r, s in zip(TIME, EVENT, risk.tolist(), survival, strict=True)]  # fmt: skip
    return write(path, "time,event,risk,survival_4,survival_20", rows, **more)


def of_values(path, noise, seed, **more):
    random = np.random.default_rng(seed)
    says = np.stack([LEVEL, LEVEL**2], 1) + noise * random.normal(size=(COUNT, 2))
    truth = [
        ("", b) if n % 5 == 0 else (a, b)
        for n, (a, b) in enumerate(zip(LEVEL.tolist(), (LEVEL**2).tolist(), strict=True))
    ]
    rows = [(*t, *s) for t, s in zip(truth, says.tolist(), strict=True)]
    return write(path, "target_a,target_b,prediction_a,prediction_b", rows, **more)


def of_grades(path, noise, seed, names=("low", "mid", "high"), **more):
    distance = np.abs(LEVEL[:, None] + noise * np.random.default_rng(seed).normal(size=(COUNT, 1))
                      - np.array([-1, 0, 1]))  # fmt: skip
    says = np.exp(-distance) / np.exp(-distance).sum(1, keepdims=True)
    grades = np.searchsorted([-0.5, 0.5], LEVEL).tolist()
    grades[7] = ""
    rows = [(g, *s) for g, s in zip(grades, says.tolist(), strict=True)]
    return write(path, "label," + ",".join(f"score_{n}" for n in names), rows, **more)


def test_times(tmp_path, capsys):
    one = of_times(tmp_path / "one.csv", risks(0.3), patients=",patient_id")
    two = of_times(tmp_path / "two.csv", -risks(0.3), order=ORDER)
    words = ["--times", 5, 10, 15, "--tau", 30]
    found = read(tmp_path, "compare", "--predictions", one, two, *words)
    shown = capsys.readouterr().out
    assert "60 bags with times, 40 draws of the 30 patients, censoring of the scored bags" in shown
    assert "AUC A" in shown and "note" not in shown
    for path in (one, two):
        alone = read(tmp_path, "mil", "--predictions", path, *words)
        assert found["metrics"][str(path)] == pytest.approx(alone["metrics"], rel=1e-12)
        pairs = zip(found["times"][str(path)], alone["times"], strict=True)
        assert all(a == pytest.approx(b, rel=1e-12) for a, b in pairs)
        assert (found["tau"], found["censoring"]) == (alone["tau"], alone["censoring"])
        if path == one:  # whose order and patients are kept
            assert found["intervals"][str(path)] == alone["intervals"]
    first, second = (found["metrics"][str(path)] for path in (one, two))
    for name, difference in found["difference"].items():
        assert difference["value"] == pytest.approx(first[name] - second[name])
        better = difference["value"] > 0 if name != "bag_ibs" else difference["value"] < 0
        assert better and difference["p"] == pytest.approx(2 / 41), name
    assert (found["bags"], found["patients"], found["draws"]) == (60, 30, 40)


def test_censoring_of_runs_that_were_trained_on_the_same_bags(tmp_path, capsys):
    metrics, surv = (pytest.importorskip(f"sksurv.{name}") for name in ("metrics", "util"))
    random = np.random.default_rng(5)
    time, event = random.integers(1, 60, 50).astype(float), random.random(50) < 0.5
    time[0] = TIME.max() + 1  # scikit-survival refuses scored times beyond
    tau = float(np.quantile(time, 0.9))
    runs = []
    for number, noise in enumerate((0.3, 1.0)):
        run_dir = tmp_path / f"run {number}"
        of_times(run_dir / "predictions/bags.csv", risks(noise))
        order = np.arange(50) if number else random.permutation(50)
        bags = {"time": time[order].tolist(), "event": event[order].tolist(), "risk": [0.0]}
        facts = {"threshold": 0.5, "training_bags": bags}
        torch.save({"segmil": {"facts": facts}}, run_dir / "best.ckpt")
        config = f"ckpt_path: {run_dir / 'best.ckpt'}\nmodel: {{init_args: {{}}}}\n"
        (run_dir / "config.yaml").write_text(config)
        runs.append(run_dir)
    found = read(tmp_path, "compare", "--predictions", *runs)
    assert (found["censoring"], found["tau"], found["notes"]) == ("training bags", tau, [])
    for run_dir, noise in zip(runs, (0.3, 1.0), strict=True):
        trained, scored = (surv.Surv.from_arrays(*p) for p in ((event, time), (EVENT, TIME)))
        uno = metrics.concordance_index_ipcw(trained, scored, risks(noise), tau, 0)[0]
        metric = found["metrics"][str(run_dir)]["bag_c_index_ipcw"]
        assert metric == pytest.approx(uno, abs=1e-12)
    bags = read(tmp_path, "compare", "--predictions", runs[0], runs[1] / "predictions/bags.csv")
    assert bags["censoring"] == "scored bags"
    assert bags["notes"][0].endswith("bags.csv: its training bags are not known; "
                                     "censoring and tau are those of the scored bags")  # fmt: skip
    facts["training_bags"]["time"][0] += 1
    torch.save({"segmil": {"facts": facts}}, runs[1] / "best.ckpt")
    bags = read(tmp_path, "compare", "--predictions", *runs)
    assert bags["censoring"] == "scored bags"
    assert bags["notes"][0].startswith("the models were trained on different bags; ")
    assert bags["notes"][0] in capsys.readouterr().out


def test_values_and_grades(tmp_path, capsys):
    cases = [
        (of_values, [], "bag_r2", "values"),
        (of_grades, ["--task", "ordinal"], "bag_quadratic_kappa", "grades"),
    ]
    for make, words, metric, kind in cases:
        one = make(tmp_path / "one.csv", 0.1, 1)
        two = make(tmp_path / "two.csv", 1.0, 2, order=ORDER)
        found = read(tmp_path, "compare", "--predictions", one, two, *words)
        unknown = kind == "grades"  # a bag of which one value is known counts for that value
        title = f"{60 - unknown} bags with {kind}, 40 draws of bags within their strata"
        assert title in capsys.readouterr().out
        assert (found["notes"] != []) == unknown
        for path in (one, two):
            alone = read(tmp_path, "mil", "--predictions", path, *words)
            assert found["metrics"][str(path)] == pytest.approx(alone["metrics"], rel=1e-12)
            if path == one:
                assert found["intervals"][str(path)] == alone["intervals"]
            if kind == "values":
                assert found["targets"][str(path)]["b"]["r2"] == pytest.approx(
                    alone["targets"]["b"]["r2"]
                )
        assert found["difference"][metric]["low"] > 0
        assert found["difference"]["bag_mae"]["high"] < 0
        same = read(tmp_path, "compare", "--predictions", one, one, *words)
        assert same["difference"][metric] == {"value": 0, "low": 0, "high": 0, "p": 1}


def test_a_run_folder_says_that_its_classes_are_grades(tmp_path):
    run_dir = tmp_path / "runs" / "version_0"
    of_grades(run_dir / "predictions" / "bags.csv", 0.5, 1)
    other = of_grades(tmp_path / "two.csv", 0.5, 2)
    record = {"facts": {}, "blueprint": {"links": {"task": "ordinal"}}}
    torch.save({"segmil": record}, run_dir / "best.ckpt")
    named = f"ckpt_path: {run_dir / 'best.ckpt'}\nmodel: {{init_args: {{}}}}\n"
    (run_dir / "config.yaml").write_text(named)
    found = read(tmp_path, "compare", "--predictions", run_dir, other)
    assert "bag_quadratic_kappa" in found["difference"]
    (run_dir / "config.yaml").write_text("model: {init_args: {}}\n")  # which model is not known
    assert run("compare", "--predictions", run_dir, other) == 2  # a bag has no grade


def known(metrics):
    return {name: value for name, value in metrics.items() if value is not None}


@pytest.mark.parametrize("kind", ["times", "values", "grades", "classes"])
def test_patients_are_pooled_as_mil_pools_them(kind, tmp_path):
    words = ["--unit", "patient"]
    pairs = np.arange(COUNT) // 2 * 2
    if kind in ("times", "values"):
        rows = [(TIME[n], int(EVENT[n])) if kind == "times" else (float(LEVEL[n]),) for n in pairs]
        header = "time,event,risk" if kind == "times" else "target_x,prediction_x"
    else:
        rows, header = [(int(LEVEL[n] > 0),) for n in pairs], "label,score"
        if kind == "grades":
            header, words = "label,score_0,score_1", [*words, "--task", "ordinal"]
        else:
            words += ["--pool", "max", "--threshold", 0.7]
    files = []
    for seed in (1, 2):
        says = np.clip(risks(0.5, seed) / 6 + 0.5, 0, 1).tolist()
        full = [(*r, *([1 - s] if kind == "grades" else []), s)
                for r, s in zip(rows, says, strict=True)]  # fmt: skip
        more = {"patients": ",patient_id"} if seed == 1 else {"order": ORDER}
        files.append(write(tmp_path / f"{seed}.csv", header, full, **more))
    found = read(tmp_path, "compare", "--predictions", *files, *words)
    alone = read(tmp_path, "mil", "--predictions", files[0], *words)
    assert known(found["metrics"][str(files[0])]) == pytest.approx(known(alone["metrics"]))
    assert found["intervals"][str(files[0])] == alone["intervals"]
    assert (found["unit"], found["pool"]) == (alone["unit"], alone["pool"])
    assert (found["bags"], found["patients"]) == (60, 30)
    assert any(n.startswith("60 bags were pooled by ") for n in found["notes"])
    write(files[1], header, full, order=ORDER, patients=",patient_id")
    second = read(tmp_path, "mil", "--predictions", files[1], *words)
    assert known(found["metrics"][str(files[1])]) == pytest.approx(known(second["metrics"]))


def test_undefined_numbers_and_few_events_are_told(tmp_path, capsys):
    rows = [(n + 1, int(n < 5), n) for n in range(COUNT)]
    one = write(tmp_path / "one.csv", "time,event,risk", rows)
    two = write(tmp_path / "two.csv", "time,event,risk,survival_5", [(*r, 0.5) for r in rows])
    found = read(tmp_path, "compare", "--predictions", one, two)
    assert found["difference"]["bag_c_index"]["p"] is None
    assert found["metrics"][str(one)]["bag_c_index"] == 0  # no sign is tried
    assert found["metrics"][str(one)]["bag_ibs"] is None
    assert found["difference"]["bag_ibs"]["value"] is None
    assert "5 bags" in found["notes"][0] and "withheld" in found["notes"][0]
    told = f"bag_ibs of {one} is undefined: no survival probabilities are predicted"
    assert told in found["notes"] and f"note: {told}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{t}", "{late}"], "late.csv, bag b3: time is 99, the other file says "),
        (["{t}", "{flip}"], "flip.csv, bag b3: event is "),
        (["{v}", "{other}"], "other.csv, bag b0: target_a is 1.5, the other file says unknown"),
        (["{g}", "{grade}", "--task", "ordinal"], "grade.csv, bag b0: grade is "),
        (["{t}", "{short}"], "b59: is only in"),
        (["{t}", "{v}"], "t.csv has times, but "),
        (["{c}", "{t}"], "c.csv has classes (binary), but "),
        (["{v}", "{named}"], "has the values a, b, but "),
        (["{g}", "{order}", "--task", "ordinal"], "write the same classes in the same order"),
        (["{t}", "{t}", "--task", "ordinal"], "has the columns of times, not of ordinal"),
        (["{t}", "{t}", "--threshold", "0.5"], "--threshold has no effect on times"),
        (["{v}", "{v}", "--tau", "5"], "--times and --tau have an effect on times alone"),
        (["{c}", "{c}", "--times", "5"], "--times and --tau have an effect on times alone"),
        (["{t}", "{t}", "--times", "-5"], "times must be numbers of at least 0"),
        (["{t}", "{t}", "--tau", "0"], "tau must be a time above 0"),
        (["{t}", "{t}", "--unit", "patient"], "t.csv: the patients of the bags are not known"),
        (["{t}", "{t}", "--pool", "mean"], "--pool has an effect with --unit patient alone"),
        (["{p}", "{p}", "--unit", "patient", "--pool", "max"], "--pool max has no meaning"),
        (["{p}", "{p}", "--unit", "patient"], "p.csv: 30 x bags with targets "),
        (
            ["{t}", "{t}", "--annotations", "{t}", "--tau", "1", "--unit", "patient"],
            "--unit, --tau",
        ),
    ],
)
def test_what_cannot_be_compared_ends_with_code_2(tmp_path, capsys, words, message):
    files = {
        "t": of_times(tmp_path / "t.csv", risks(1.0)),
        "p": of_times(tmp_path / "p.csv", risks(1.0), patients=",patient_id"),
        "short": of_times(tmp_path / "short.csv", risks(1.0), order=range(COUNT - 1)),
        "v": of_values(tmp_path / "v.csv", 1.0, 1),
        "c": write(tmp_path / "c.csv", "label,score", [(n % 2, 0.5) for n in range(COUNT)]),
        "g": of_grades(tmp_path / "g.csv", 1.0, 1),
        "order": of_grades(tmp_path / "order.csv", 1.0, 1, names=("high", "mid", "low")),
    }
    text, row = files["t"].read_text(), f"b3,{TIME[3]},{EVENT[3]:d}"
    changes = {
        "late": text.replace(row, f"b3,99,{EVENT[3]:d}"),
        "flip": text.replace(row, f"b3,{TIME[3]},{not EVENT[3]:d}"),
        "other": files["v"].read_text().replace("b0,,", "b0,1.5,"),
        "named": files["v"].read_text().replace("_a", "_x"),
    }
    lines = files["g"].read_text().splitlines()
    lines[1] = "b0," + str((int(lines[1].split(",")[1]) + 1) % 3) + lines[1][4:]
    changes["grade"] = "\n".join(lines) + "\n"
    for name, content in changes.items():
        files[name] = tmp_path / f"{name}.csv"
        files[name].write_text(content)
    assert run("compare", "--predictions", *(word.format(**files) for word in words)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
