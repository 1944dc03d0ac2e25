"""Run folders of a report."""

import pytest

from engine.reports.folder import read_runs


@pytest.fixture
def folder(tmp_path):
    def make(name):
        made = tmp_path / name / "predictions"
        made.mkdir(parents=True)
        (made.parent / "config.yaml").write_text("model: {}\n")
        (made / "bags.csv").write_text("")
        return made.parent

    return make


def test_names_have_as_many_folders_as_tell_the_runs_apart(folder):
    paths = [
        "bn/seed_0/mask_rcnn/version_0", "gn/seed_0/mask_rcnn/version_0",
        "yolo/version_0", "fox/version_0", "fox/version_1",
    ]  # fmt: skip
    runs = read_runs([folder(path) for path in paths])
    assert [run.name for run in runs] == [*paths[:2], "yolo", *paths[3:]]
