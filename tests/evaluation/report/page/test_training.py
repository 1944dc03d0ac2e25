"""Charts of a training log."""

import pytest

from evaluation.report.page.training import POINTS, read_log, training_charts
from tests.support.report_runs import METRICS


def written(path, text):
    path.write_text(text)
    return read_log(path)


def test_a_log_becomes_charts(tmp_path):
    log = written(tmp_path / "metrics.csv", METRICS)
    assert (log.steps, log.last_epoch, log.memory_mib) == (40, 1, None)
    charts = {chart.key: chart for chart in training_charts([("run", log)])}
    assert set(charts) == {
        "train_loss", "train_loss_terms", "train_val_segm_map", "train_learning_rate"
    }  # fmt: skip
    assert charts["train_loss"].log_y
    (line,) = charts["train_val_segm_map"].lines
    assert (line.name, line.x, line.y) == ("segm_map", (19, 39), (0.25, 0.75))
    assert charts["train_val_segm_map"].title == "Mask AP in validation (segm_map)"  # no legend
    several = {c.key: c for c in training_charts([("a", log), ("b", log)])}
    assert [line.name for line in several["train_loss"].lines] == ["a: training", "b: training"]
    assert [line.run for line in several["train_loss"].lines] == [0, 1]
    assert "train_loss_terms" not in several


def test_a_single_term_is_not_drawn_twice(tmp_path):
    rows = "step,train/loss,train/loss_bag,val/loss,val/loss_bag,lr-SGD\n3,1,1,2,2,.1\n"
    charts = training_charts([("run", written(tmp_path / "metrics.csv", rows))])
    assert [c.title for c in charts] == ["Loss", "Learning rate"]


def test_long_lines_are_averaged(tmp_path):
    rows = "".join(f"{step},{step % 2}\n" for step in range(4 * POINTS))
    log = written(tmp_path / "metrics.csv", f"step,train/loss\n{rows}")
    (chart,) = training_charts([("run", log)])
    (line,) = chart.lines
    assert len(line.x) == POINTS
    assert set(line.y) == {0.5}
    assert written(tmp_path / "ones.csv", "step,train/loss\n1,-1\n").series


@pytest.mark.parametrize("text", ["", "epoch,step\n", "step,train/loss\n3,nan\n3,\n"])
def test_a_log_without_numbers_gives_no_chart(text, tmp_path):
    assert training_charts([("run", written(tmp_path / "metrics.csv", text))]) == ()
    assert read_log(tmp_path / "nothing.csv").steps is None
