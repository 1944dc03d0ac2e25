"""Rows are appended, columns may come later, a kill costs at most the line being written."""

import csv

import pytest
import torch

from loggers.csv_logger import MetricsTable, TableFile


def read(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_rows_are_appended_and_new_columns_rewrite_the_file(tmp_path):
    path = tmp_path / "run" / "metrics.csv"
    table = TableFile(path)
    table.log_metrics({"b": torch.tensor(0.5)}, step=0)
    table.save()
    assert path.read_text().splitlines() == ["b,step", "0.5,0"]
    table.log_metrics({"b": 1.0}, step=1)
    table.save()
    table.save()  # nothing new
    table.log_metrics({"a": 1 / 3}, step=1)
    assert len(read(path)) == 2
    table.save()
    assert read(path) == [
        {"a": "", "b": "0.5", "step": "0"},
        {"a": "", "b": "1.0", "step": "1"},
        {"a": repr(1 / 3), "b": "", "step": "1"},
    ]
    assert [p.name for p in path.parent.iterdir()] == ["metrics.csv"]


def filled(path):
    table = TableFile(path)
    for step in range(5):
        table.log_metrics({"x": step / 10}, step=step)
    table.log_metrics({"late": 1.0}, step=4)
    table.save()


@pytest.mark.parametrize(("step", "kept"), [(0, 0), (3, 3), (5, 6), (9, 6)])
def test_a_resumed_run_drops_the_rows_that_it_makes_again(tmp_path, step, kept):
    path = tmp_path / "metrics.csv"
    filled(path)
    before = read(path)
    table = TableFile(path, resume_step=step)
    assert read(path) == before  # the checkpoint may yet be refused
    table.save()
    columns = ("late", "step", "x") if kept == 6 else ("step", "x")
    assert read(path) == [{c: r[c] for c in columns} for r in before[:kept]]
    table.log_metrics({"y": 2.0}, step=step)
    table.save()
    after = read(path)
    assert after[:kept] == [{**dict.fromkeys(after[0], ""), **r} for r in read_rows(before, kept)]
    assert after[-1] == {**dict.fromkeys(after[0], ""), "step": str(step), "y": "2.0"}


def read_rows(rows, kept):
    return [{k: v for k, v in r.items() if v} for r in rows[:kept]]


@pytest.mark.parametrize("cut", [1, 3, 5])
def test_a_line_that_a_kill_cut_off_is_dropped(tmp_path, cut):
    path = tmp_path / "metrics.csv"
    filled(path)
    text = path.read_bytes()
    path.write_bytes(text[:-cut])
    table = TableFile(path, resume_step=9)
    table.log_metrics({"x": 0.9}, step=9)
    table.save()
    assert [r["step"] for r in read(path)] == ["0", "1", "2", "3", "4", "9"]


def test_the_logger_writes_into_the_run_folder(tmp_path):
    logger = MetricsTable(tmp_path / "name" / "version_3")
    logger.log_metrics({"x": 1.0}, step=7)
    logger.finalize("success")
    assert read(tmp_path / "name" / "version_3" / "metrics.csv") == [{"step": "7", "x": "1.0"}]
    again = MetricsTable(tmp_path / "name" / "version_3", resume_step=7)
    again.log_metrics({"x": 2.0}, step=7)
    again.save()
    assert read(tmp_path / "name" / "version_3" / "metrics.csv") == [{"step": "7", "x": "2.0"}]
