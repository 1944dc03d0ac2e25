"""`evaluate.py compare` of two cross-validations of times, values or grades."""

import json

import numpy as np
import pytest

import evaluate
from evaluation.statistics.resampled_t import corrected_resampled_t_test

COUNT, FOLDS = 80, 4
RANDOM = np.random.default_rng(2)
FOLD_OF = np.stack([RANDOM.permutation(COUNT) % FOLDS for _ in range(2)])
LEVEL = RANDOM.normal(size=COUNT)
DEATH, LEAVE = RANDOM.exponential(10 * np.exp(-LEVEL)), RANDOM.uniform(0, 40, COUNT)
TIME, EVENT = np.ceil(np.minimum(DEATH, LEAVE)) + 1, DEATH <= LEAVE
# The end of the study: of every fold's training bags, so that scikit-survival takes its test bags.
ENDS = np.argsort(TIME)[-10:]
TIME[ENDS], EVENT[ENDS] = 30, False


def run(*arguments):
    return evaluate.main([str(a) for a in arguments])


def compared(tmp_path, *arguments):
    out = tmp_path / "out.json"
    assert run("compare", *arguments, "--out", out) == 0
    return json.loads(out.read_text())


def write(path, header, columns):
    """Write a table of both repeats; ``columns`` gives the cells of a bag in a repeat."""
    lines = [f"repeat,fold,bag_id,{header}"]
    for repeat in range(2):
        for n in np.argsort(FOLD_OF[repeat], kind="stable").tolist():
            cells = map(str, columns(repeat, n))
            lines.append(",".join([str(repeat), str(FOLD_OF[repeat, n]), f"b{n}", *cells]))
    path.write_text("\n".join(lines) + "\n")
    return path


def risks(seed, noise):
    """Return (2, n) risks; those of a fold have an origin of their own, as of a Cox model."""
    random = np.random.default_rng(seed)
    return LEVEL + noise * random.normal(size=(2, COUNT)) + 50 * FOLD_OF


def of_times(path, seed, noise, survival=True):
    risk = risks(seed, noise)
    header = "time,event,risk" + ",survival_4,survival_10" * survival

    def cells(repeat, n):
        says = curves(risk)[repeat, n].tolist() if survival else []
        return TIME[n], int(EVENT[n]), float(risk[repeat, n]), *says

    return write(path, header, cells)


def curves(risk):
    return np.exp(-np.exp(risk - 50 * FOLD_OF)[..., None] * np.array([4.0, 10.0]) / 10)


def by_fold(score):
    return [score(r, FOLD_OF[r] == f) for r in range(2) for f in range(FOLDS)]


def test_each_fold_of_times_is_scored_by_itself(tmp_path):
    peer, surv = (pytest.importorskip(f"sksurv.{name}") for name in ("metrics", "util"))
    settings = [(1, 0.5), (2, 2.0)]
    files = [of_times(tmp_path / f"{seed}.csv", seed, noise) for seed, noise in settings]
    found = compared(tmp_path, "--predictions", *files, "--times", 4, 10)

    def harrell(risk):
        return lambda r, test: peer.concordance_index_censored(
            EVENT[test], TIME[test], risk[r, test], tied_tol=0
        )[0]

    def uno(risk):
        def of_fold(r, test):
            trained = surv.Surv.from_arrays(EVENT[~test], TIME[~test])
            scored = surv.Surv.from_arrays(EVENT[test], TIME[test])
            tau = np.quantile(TIME[~test], 0.9)
            return peer.concordance_index_ipcw(trained, scored, risk[r, test], tau, 0)[0]

        return of_fold

    def brier(risk):
        def of_fold(r, test):
            trained = surv.Surv.from_arrays(EVENT[~test], TIME[~test])
            scored = surv.Surv.from_arrays(EVENT[test], TIME[test])
            return peer.integrated_brier_score(trained, scored, curves(risk)[r, test], [4, 10])

        return of_fold

    for name, oracle in (
        ("bag_c_index", harrell),
        ("bag_c_index_ipcw", uno),
        ("bag_ibs", brier),
    ):
        one, two = (by_fold(oracle(risks(*setting))) for setting in settings)
        test = corrected_resampled_t_test(one, two, 1 / (FOLDS - 1))
        for key in ("first", "second", "value", "low", "high", "p", "folds"):
            assert found["difference"][name][key] == pytest.approx(getattr(test, key)), name
    assert (found["folds"], found["bags"], found["notes"]) == (8, COUNT, [])
    # Deciles of the event times of all bags, each once, are the same in every fold.
    times = np.unique(np.quantile(TIME[EVENT], np.arange(1, 10) / 10)).tolist()
    given = compared(tmp_path, "--predictions", *files, "--times", *times)
    assert compared(tmp_path, "--predictions", *files)["difference"] == given["difference"]
    bare = of_times(tmp_path / "bare.csv", 2, 2.0, survival=False)
    short = compared(tmp_path, "--predictions", files[0], bare, "--times", 4, 10)
    assert set(found["difference"]) - set(short["difference"]) == {"bag_ibs"}


def test_values_and_grades_of_folds(tmp_path):
    peer = pytest.importorskip("sklearn.metrics")
    grades = np.searchsorted([-0.5, 0.5], LEVEL)
    cases = {
        "values": ("target_x,prediction_x", [], "bag_r2"),
        "grades": ("label,score_low,score_mid,score_high", ["--task", "ordinal"],
                   "bag_quadratic_kappa"),
    }  # fmt: skip
    for kind, (header, words, metric) in cases.items():
        files, values = [], []
        for seed, noise in ((1, 0.3), (2, 1.0)):
            says = risks(seed, noise) - 50 * FOLD_OF
            given = np.searchsorted([-0.5, 0.5], says)
            full = np.eye(3)[given]

            def cells(r, n, says=says, full=full, kind=kind):
                if kind == "values":
                    return float(LEVEL[n]), float(says[r, n])
                return grades[n], *full[r, n].tolist()

            def oracle(r, test, says=says, given=given, kind=kind):
                if kind == "values":
                    return peer.r2_score(LEVEL[test], says[r, test])
                return peer.cohen_kappa_score(grades[test], given[r, test], weights="quadratic")

            files.append(write(tmp_path / f"{seed}.csv", header, cells))
            values.append(by_fold(oracle))
        found = compared(tmp_path, "--predictions", *files, *words)
        test = corrected_resampled_t_test(*values, 1 / (FOLDS - 1))
        for key in ("first", "second", "value", "low", "p"):
            assert found["difference"][metric][key] == pytest.approx(getattr(test, key))


def test_folds_without_events_and_few_events_are_told(tmp_path, capsys):
    def cells(repeat, n):
        return n + 1, int(n < 6 and FOLD_OF[0, n] != 1), n / 7

    path = write(tmp_path / "a.csv", "time,event,risk", cells)
    found = compared(tmp_path, "--predictions", path, path)
    events = sum(FOLD_OF[0, :6] != 1)
    assert found["notes"][0].startswith(f"the event has {events} bags")
    assert (
        "left out are folds in which a metric is not defined: bag_c_index in "
        in (found["notes"][1])
    )
    assert found["difference"]["bag_c_index"]["p"] is None
    assert "note: left out are folds" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.csv", "values.csv"], "values.csv bag_mae, bag_pearson"),
        (["a.json", "values.json"], "compare cross-validations of the same task"),
        (["a.json", "timed.json"], "has other --times or --tau"),
        (["tau.json", "a.json"], "has other --times or --tau"),
        (["a.csv", "late.csv"], "of repeat 0 has other bags or labels in late.csv, for example "
                                "bag b5"),
        (["a.json", "a.json", "--times", "5"], "--times: without effect on a.json"),
        (["a.csv", "a.csv", "--unit", "patient"], "--unit patient and --pool have no effect"),
        (["values.csv", "values.csv", "--tau", "5"], "--times and --tau have an effect on times"),
        (["a.csv", "a.csv", "--threshold", "0.5"], "--threshold has no effect on a cross-valid"),
        (["a.csv", "twice.csv"], "b5 occurs more than once"),
    ],
)  # fmt: skip
def test_what_cannot_be_paired_is_refused(tmp_path, capsys, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    text = of_times(tmp_path / "a.csv", 1, 1.0).read_text()
    line = next(line for line in text.splitlines() if line.split(",")[2] == "b5")
    later = ",".join([*line.split(",")[:3], "99", *line.split(",")[4:]])
    (tmp_path / "late.csv").write_text(text.replace(line, later))
    (tmp_path / "twice.csv").write_text(text + line + "\n")
    write(tmp_path / "values.csv", "target_x,prediction_x", lambda r, n: (n, n * n))
    record = {"files": {"bags.npz": "x"}, "seed": 0, "repeats": 2, "times": [{"time": 5}]}
    record["tau"] = list(range(8))
    for name, metric, more in (
        ("a", "bag_c_index", {}),
        ("values", "bag_r2", {}),
        ("timed", "bag_c_index", {"times": [{"time": 6}]}),
        ("tau", "bag_c_index", {"tau": [30] * 8}),
    ):
        metrics = {"metrics": {metric: {"folds": [0.5] * 8}}}
        (tmp_path / f"{name}.json").write_text(json.dumps(record | metrics | more))
    assert run("compare", "--predictions", *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
