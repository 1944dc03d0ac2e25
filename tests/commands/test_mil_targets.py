"""Times, values and grades from a training to `evaluate.py mil`, as a user types it."""

import csv

import numpy as np
import pytest
import torch
import yaml

import evaluate
import segmil
import train
from engine.checkpoints.restore import restore
from evaluation.targets.bags import TargetPredictions
from evaluation.targets.concordance import ComparablePairs, harrell_c
from evaluation.targets.training_bags import TrainingBags
from lightning_modules.targets.checks import HEADLINE
from tests.commands.test_mil_subgroups import refused, scored
from tests.support.target_bags import bags_of, recipe

TASKS = ["cox", "discrete_time", "regression", "ordinal"]
PYTHON = {"cox": ["risk"], "regression": ["weight", "square"], "ordinal": ["low", "middle", "high"]}


def values(metrics):
    return {n: v for n, v in metrics.items() if n.startswith("bag_")}


def check_validation(task, best):
    """What the training logged of its best epoch is what best.ckpt says of the validation bags."""
    with (best.parents[1] / "metrics.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row.get(f"val/{HEADLINE[task]}")]
    logged = max(rows, key=lambda row: float(row[f"val/{HEADLINE[task]}"]))
    module, chosen = restore(best).module, np.arange(40, 64)
    bags = bags_of(task)
    with torch.no_grad():
        output = module.network(bags)
    found = output.risk(task) if task in TASKS[:2] else module.predicted(output)
    labels, found = bags.labels.numpy()[chosen], found.double().numpy()[chosen]
    metrics = TargetPredictions(task, tuple(map(str, chosen)), labels, found).metrics()
    names = [HEADLINE[task]] if task in TASKS[:2] else metrics
    for name in names:
        assert float(logged[f"val/{name}"]) == pytest.approx(metrics[name], abs=1e-6), name


def check_from_python(task, best, table):
    """`segmil.load` predicts what the table has, by the same names and in the same units."""
    model, bags = segmil.load(best, device="cpu"), bags_of(task)
    with table.open() as stream:
        rows = list(csv.DictReader(stream))
    for row in rows[:2]:
        features = bags.bag(int(row["bag_id"].removeprefix("b"))).features.numpy()
        found = model.predict(features).probabilities
        assert list(found) == PYTHON.get(task, [n for n in row if n[:4] in ("risk", "surv")])
        prefix = {"regression": "prediction_", "ordinal": "score_"}.get(task, "")
        for name, value in found.items():
            assert value == pytest.approx(float(row[prefix + name]), rel=1e-5, abs=1e-6), name


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_validation_checkpoint_and_table_have_equal_numbers(task, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(recipe(task)))
    runs = tmp_path / "runs"
    words = ["--config", str(path), "--runs_dir", str(runs)]
    assert train.main(["fit", *words, "--trainer.max_epochs", "2"]) == 0
    best = runs / "r/version_0/checkpoints/best.ckpt"
    assert train.main(["test", *words, "--ckpt_path", str(best)]) == 0
    (folder,) = runs.glob("r_test/version_0")
    with (folder / "metrics.csv").open() as stream:
        row = next(csv.DictReader(stream))
    tested = {n.removeprefix("test/"): float(v) for n, v in row.items() if "test/bag_" in n and v}
    saved = tmp_path / "saved.csv"
    offline = scored(tmp_path, "--ckpt", best, "--data", path, "--save-predictions", saved)
    assert values(offline["metrics"]) == tested
    table = folder / "predictions/bags.csv"
    scored_bags, every = saved.read_text().splitlines(), table.read_text().splitlines()
    assert scored_bags[0] == every[0] and len(scored_bags) == 1 + len(offline["bags"])
    assert set(scored_bags) <= set(every)
    check_validation(task, best)
    check_from_python(task, best, table)
    words = ["--predictions", table, *(["--task", "ordinal"] if task == "ordinal" else [])]
    bare = scored(tmp_path, *words)
    pooled = scored(tmp_path, *words, "--unit", "patient") if task in TASKS[:2] else None
    if pooled is None:
        assert values(bare["metrics"]) == tested
        return
    assert pooled["metrics"].keys() == bare["metrics"].keys()
    assert (offline["censoring"], bare["censoring"]) == ("training bags", "scored bags")
    assert bare["metrics"]["bag_c_index"] == tested["bag_c_index"]
    # The table has no training bags; without them the checkpoint says the same.
    module = restore(best).module
    record = torch.load(best, weights_only=True)["segmil"]["facts"]["training_bags"]
    kept = TrainingBags.from_plain(record)
    bags = bags_of(task)
    np.testing.assert_array_equal(kept.time, bags.labels[:40, 0])
    with torch.no_grad():
        output = module.network(bags)
    risk = output.risk(task).numpy()
    np.testing.assert_allclose(kept.risk, np.sort(risk[:40]), rtol=0, atol=1e-6)
    assert (kept.baseline is not None) == (task == "cox")
    from evaluation.targets.tables import BinnedCurves, CoxCurves

    chosen = np.arange(64, 94)
    edges = module.target_coding.edges[1:]
    curves = (
        CoxCurves(kept.baseline, risk[chosen])
        if task == "cox"
        else BinnedCurves(output.survival().numpy()[chosen], edges)
    )
    alone = TargetPredictions(
        task, tuple(map(str, chosen)), bags.labels.numpy()[chosen], risk[chosen], curves
    )
    for name, value in alone.metrics().items():
        assert bare["metrics"][name] == pytest.approx(value, abs=1e-6), name


HEAD = "bag_id,time,event,risk,survival_10,survival_5\n"
ROWS = [f"b{n},{n + 1},{n % 3 > 0:d},{-n / 7},{0.5},{0.9}\n" for n in range(30)]


def test_a_table_of_times(tmp_path, capsys):
    path = tmp_path / "t.csv"
    path.write_text(HEAD + "".join(ROWS))
    found = scored(tmp_path, "--predictions", path, "--times", 4, 8, "--tau", 20, "--groups", 3)
    assert found["metrics"]["bag_c_index"] == 1.0  # and no sign is tried:
    assert found["tau"] == 20 and [row["time"] for row in found["times"]] == [4, 8]
    assert len(found["risk_groups"]["groups"]) == 3 and found["log_rank"]["df"] == 2
    assert found["bags"][0] == {"bag_id": "b0", "time": 1, "event": 0, "risk": 0}
    drawn = tmp_path / "km.png"
    scored(tmp_path, "--predictions", path, "--figure", drawn)
    assert drawn.read_bytes().startswith(b"\x89PNG")
    wrong = path.with_name("w.csv")
    wrong.write_text(HEAD + "".join(row.replace(",-", ",") for row in ROWS))
    assert scored(tmp_path, "--predictions", wrong)["metrics"]["bag_c_index"] == 0
    assert "scored bags" in capsys.readouterr().out


def test_patients_are_means_of_risks_and_curves(tmp_path):
    random = np.random.default_rng(0)
    time, event = random.integers(1, 30, 20), random.random(20) < 0.7
    risk, early = random.normal(size=(20, 3)), random.uniform(0.5, 1, (20, 3))
    lines = [f"{p}-{k},{time[p]},{event[p]:d},{float(risk[p, k])!r},{float(early[p, k])!r},p{p}\n"
             for p in range(20) for k in range(3)]  # fmt: skip
    path = tmp_path / "t.csv"
    path.write_text("bag_id,time,event,risk,survival_10,patient_id\n" + "".join(lines))
    saved = tmp_path / "patients.csv"
    words = ["--predictions", path, "--unit", "patient", "--save-predictions", saved]
    found = scored(tmp_path, *words, "--times", 5, 10)
    pairs = ComparablePairs(time.astype(float), event, risk.mean(axis=1))
    wanted = float(harrell_c(pairs, np.ones((1, 20)))[0])
    assert found["metrics"]["bag_c_index"] == pytest.approx(wanted)
    rows = [f"p{p},{time[p]},{event[p]:d},{float(risk[p].mean())!r},{float(early[p].mean())!r}\n"
            for p in range(20)]  # fmt: skip
    path.write_text("bag_id,time,event,risk,survival_10\n" + "".join(rows))
    alone = scored(tmp_path, "--predictions", path, "--times", 5, 10)
    for name, value in alone["metrics"].items():
        assert found["metrics"][name] == pytest.approx(value)
    head = "bag_id,time,event,risk,survival_10,patient_id\n"
    assert saved.read_text().startswith(head)
    assert scored(tmp_path, "--predictions", saved, "--times", 5, 10)["metrics"] == found["metrics"]


def test_a_patient_has_the_values_that_are_known_of_any_bag(tmp_path, capsys):
    path = tmp_path / "t.csv"
    head = "bag_id,target_a,target_b,prediction_a,prediction_b,patient_id\n"
    rows = [f"{p}-{k},{p if k else ''},{-p if k != 1 else ''},{p + k},{k},p{p}\n"
            for p in range(12) for k in range(3)]  # fmt: skip
    path.write_text(head + "".join(rows))
    words = ["--predictions", path, "--unit", "patient"]
    found = scored(tmp_path, *words)
    assert [bag["target"] for bag in found["bags"]] == [[p, -p] for p in range(12)]
    assert found["targets"]["a"]["mae"] == pytest.approx(1)
    path.write_text(head + "".join([*rows, "x,,3,0,0,p0\n"]))
    assert evaluate.main(["mil", *map(str, words)]) == 2
    assert "patient p0" in capsys.readouterr().err


def test_a_table_of_values_and_one_of_grades(tmp_path):
    path = tmp_path / "t.csv"
    rows = [f"b{n},{n},{'' if n % 2 else n * n},{n + 1},{n * n}\n" for n in range(30)]
    path.write_text("bag_id,target_a,target_b,prediction_a,prediction_b\n" + "".join(rows))
    found = scored(tmp_path, "--predictions", path)
    assert found["targets"]["a"]["mae"] == 1 and found["targets"]["b"]["mae"] == 0
    assert found["targets"]["b"]["bags"] == 15 and found["metrics"]["bag_mae"] == 0.5
    rows = [f"b{n},{n % 3},{(n % 3 == 0):d},{(n % 3 == 1):d},{(n % 3 == 2):d}\n" for n in range(30)]
    rows.append("unknown,,0.2,0.3,0.5\n")
    path.write_text("bag_id,label,score_low,score_mid,score_high\n" + "".join(rows))
    saved = tmp_path / "grades.csv"
    words = ["--task", "ordinal", "--save-predictions", saved]
    found = scored(tmp_path, "--predictions", path, *words)
    assert found["metrics"]["bag_quadratic_kappa"] == 1 and found["grades"] == [10, 10, 10]
    assert found["notes"] == ["1 bags without a known target do not count"]
    kept = saved.read_text().splitlines()
    assert kept[0] == "bag_id,label,score_low,score_mid,score_high,prediction,threshold"
    assert len(kept) == 31 and kept[2] == "b1,1,0.0,1.0,0.0,1,"


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        (HEAD + "b,-1,1,0,.5,.9\n", [], "bag b, line 2: time is '-1'"),
        (HEAD + "b,nan,1,0,.5,.9\n", [], "time is 'nan'"),
        (HEAD + "b,soon,1,0,.5,.9\n", [], "time is 'soon'"),
        (HEAD + "b,1,2,0,.5,.9\n", [], "event is '2'; write 1 for an event"),
        (HEAD + "b,1,1,,.5,.9\n", [], "risk is ''"),
        (HEAD + "b,1,1,0,.5,1.5\n", [], "survival_5 is '1.5'"),
        (HEAD + "b,1,1,0,.9,.5\n", [], "survival rises with time"),
        ("bag_id,time,event\nb,1,1\n", [], "column risk missing"),
        (HEAD + "".join(ROWS), ["--task", "ordinal"], "not of ordinal; give a table of grades"),
        (HEAD + "".join(ROWS), ["--threshold", "0.5"], "--threshold has no effect"),
        (HEAD + "".join(ROWS), ["--tau", "-1"], "tau must be a time above 0"),
        (HEAD + "".join(ROWS), ["--unit", "patient"], "column patient_id missing"),
        ("bag_id,target_a\nb,1\n", [], "column prediction_a missing"),
        ("bag_id,target_a,prediction_a\nb,x,1\n", [], "target_a is 'x'"),
        ("bag_id,target_a,prediction_a\nb,,1\n", [], "no bag has a known target"),
        ("bag_id,target_a,prediction_a\nb,1,1\n", ["--tau", "3"], "--tau: have an effect on times"),
        ("bag_id,label,score\nb,1,1\n", ["--groups", "3"], "--groups: have an effect on times"),
        ("bag_id,label,score\nb,1,1\n", ["--task", "ordinal"], "columns of a binary task"),
        (
            "bag_id,label,score\nb,1,1\n",
            ["--figure", "f.png"],
            "--figure draws times, values",
        ),
        (
            "bag_id,time,event,risk,patient_id\na,1,1,0,p\nb,2,1,0,p\n",
            ["--unit", "patient"],
            "patient p: bags with targets 1 1 (a), 2 1 (b)",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path, capsys, text, words, message):
    path = tmp_path / "t.csv"
    path.write_text(text)
    assert message in refused(capsys, "--predictions", path, *words)
