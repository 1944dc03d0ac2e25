"""A checkpoint's name never stands for half a file, and reading one executes nothing."""

import os
import signal
import stat
import time

import numpy as np
import pytest
import torch

import formats.files
from engine.checkpoints.atomic_io import AtomicCheckpointIO


class Spy:
    """Leaves a file behind when unpickled carelessly."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


def test_bytes_reach_the_disk_before_the_name_and_the_folder_after_it(tmp_path, monkeypatch):
    events = []
    sync, replace = os.fsync, type(tmp_path).replace

    def fsync(descriptor):
        events.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "bytes")
        sync(descriptor)

    def move(self, target):
        events.append("name")
        return replace(self, target)

    monkeypatch.setattr(formats.files.os, "fsync", fsync)
    monkeypatch.setattr(type(tmp_path), "replace", move)
    AtomicCheckpointIO().save_checkpoint({"x": torch.ones(2)}, tmp_path / "a" / "c.ckpt")
    assert events == ["bytes", "name", "folder"]
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["c.ckpt"]


def test_an_error_while_saving_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    files = AtomicCheckpointIO()
    files.save_checkpoint({"x": 1}, tmp_path / "c.ckpt")

    def half(content, file):
        file.write(b"PK half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="no space"):
        files.save_checkpoint({"x": 2}, tmp_path / "c.ckpt")
    assert files.load_checkpoint(tmp_path / "c.ckpt") == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["c.ckpt"]


def filled(n):
    """Made by numpy, because torch's threads do not survive a fork."""
    return torch.from_numpy(np.full(200_000, n))


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    files, path = AtomicCheckpointIO(), tmp_path / "c.ckpt"
    for attempt in range(6):
        files.save_checkpoint({"n": 0, "x": filled(0)}, path)
        child = os.fork()
        if child == 0:
            try:
                for n in range(1, 10_000):
                    files.save_checkpoint({"n": n, "x": filled(n)}, path)
            finally:
                os._exit(0)
        limit = time.monotonic() + 20
        while files.load_checkpoint(path)["n"] == 0 and time.monotonic() < limit:
            time.sleep(0.001)
        time.sleep(0.0007 * attempt)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        content = files.load_checkpoint(path)
        assert content["n"] > 0
        assert (content["x"] == content["n"]).all()


def test_a_file_with_code_is_refused_unexecuted(tmp_path):
    path, marker = tmp_path / "evil.ckpt", tmp_path / "executed"
    torch.save({"state_dict": {}, "x": Spy(marker)}, path)
    with pytest.raises(ValueError, match=r"evil.ckpt: refused"):
        AtomicCheckpointIO().load_checkpoint(path, weights_only=False)
    assert not marker.exists()
