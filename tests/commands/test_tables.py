"""Progress of long tasks."""

import time

from commands._tables import progress_with_time


def test_time_left_is_measured_from_the_first_report(monkeypatch, capsys):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    report = progress_with_time("folds")
    for seconds, done in ((1, 2), (29, 2.2), (31, 2.5), (40, 3), (61, 3.0), (600, 10)):
        now[0] = 1000.0 + seconds
        report(done, 10)
    # Two folds were finished before: half a fold in 30 s, then one in 60 s.
    assert capsys.readouterr().err.splitlines() == [
        "2.5 of 10 folds, 8 min left",
        "3 of 10 folds, 7 min left",
        "10 of 10 folds",
    ]
