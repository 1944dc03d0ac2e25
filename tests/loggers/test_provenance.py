import json
import subprocess

import pytest

from loggers import provenance as module
from loggers.provenance import provenance, write_provenance


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A git checkout with one commit takes the place of this one."""
    folder = tmp_path / "code"
    folder.mkdir()

    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(folder), *identity, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    (folder / "a.py").write_text("1")
    git("add", "a.py")
    git("commit", "-q", "-m", "one")
    monkeypatch.setattr(module, "_ROOT", folder)
    return folder, git("rev-parse", "HEAD")


def test_commit_and_changes(checkout):
    folder, commit = checkout
    (folder / "untracked.txt").write_text("x")
    record = provenance(["train.py", "fit"], "abc")
    assert (record["command"], record["data_hash"]) == ("train.py fit", "abc")
    assert (record["git_commit"], record["git_dirty"]) == (commit, False)
    assert record["versions"]["torch"]
    (folder / "a.py").write_text("2")
    assert provenance([], None)["git_dirty"] is True


def test_no_checkout_and_no_git(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    record = provenance([], None)
    assert (record["git_commit"], record["git_dirty"]) == (None, None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance([], None)["git_commit"] is None


def test_a_git_that_hangs_is_left_behind(tmp_path, monkeypatch):
    program = tmp_path / "git"
    program.write_text("#!/bin/sh\nexec sleep 20\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(module, "_SECONDS", 0.2)
    assert provenance([], None)["git_commit"] is None


def test_the_file(tmp_path):
    write_provenance(tmp_path / "run", {"data_hash": "abc"})
    assert json.loads((tmp_path / "run" / "provenance.json").read_text()) == {"data_hash": "abc"}
