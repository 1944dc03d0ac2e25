"""Starting from files: what fits, what is reported, what is refused."""

import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from formats.weights.files import load_weights, read_file, read_weights


class Spy:
    """Runs code when unpickled carelessly."""

    def __reduce__(self):
        return (print, ("executed",))


def test_partial_fit_is_reported_by_name_and_shape(tmp_path):
    source, target = nn.Linear(3, 2), nn.Linear(3, 4)
    torch.save(
        {"weight": source.weight, "bias": torch.ones(4), "extra": torch.ones(1)}, tmp_path / "w.pt"
    )
    before = target.weight.clone()
    report = load_weights(target, tmp_path / "w.pt")
    assert report.loaded == 1
    assert report.unexpected == ["extra"]
    assert report.mismatched == ["weight: (2, 3) -> (4, 3)"]
    assert report.missing == []
    assert target.bias.tolist() == [1, 1, 1, 1]
    assert torch.equal(target.weight, before)
    assert "weight: (2, 3) -> (4, 3)" in str(report)


@pytest.mark.parametrize("kind", ["bare", "trainer", "safetensors"])
def test_all_layouts_load_the_same_weights(tmp_path, kind):
    source, target = nn.Linear(3, 2), nn.Linear(3, 2)
    path = tmp_path / f"w.{'safetensors' if kind == 'safetensors' else 'ckpt'}"
    if kind == "safetensors":
        save_file(source.state_dict(), path)
    elif kind == "bare":
        torch.save(source.state_dict(), path)
    else:
        torch.save({"state_dict": {f"model.{k}": v for k, v in source.state_dict().items()}}, path)
    assert load_weights(target, path).loaded == 2
    assert torch.equal(target.weight, source.weight)


def test_a_file_with_code_is_refused_unexecuted(tmp_path, capsys):
    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": {}, "x": Spy()}, path)
    with pytest.raises(
        ValueError, match=r"evil.ckpt: ref.*\(Unsupported global: GLOBAL print [^.]*\). Save"
    ):
        read_file(path)
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Spy()))
    with pytest.raises(ValueError, match=r"raw.pt: "):
        read_file(tmp_path / "raw.pt")
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content"), [("a.pt", b"not a file"), ("a.safetensors", b"x" * 20), ("b.pt", b"")]
)
def test_broken_files_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        read_file(tmp_path / name)


@pytest.mark.parametrize("content", [b'{"a": 1}', b"[1, 2]", b"model: 3", b""])
def test_files_of_another_kind_are_told_so(tmp_path, content):
    file = tmp_path / "some.json"
    file.write_bytes(content)
    for read in (read_file, read_weights):
        with pytest.raises(ValueError, match=r"some.json: has no weights: .*; give a checkpoint"):
            read(file)


def test_the_reason_of_a_broken_pickle_is_told(tmp_path):
    (tmp_path / "w.pt").write_bytes(b"\x80\x02{")
    with pytest.raises(ValueError, match=r"w.pt: .*broken.*\(.+\)"):
        read_file(tmp_path / "w.pt")
    (tmp_path / "w.pt").write_bytes(b"\x80\x02\xff")
    with pytest.raises(ValueError, match=r"w.pt: .*or is broken \(Unsupported operand 255\)"):
        read_file(tmp_path / "w.pt")


def test_an_archive_that_grows_is_refused(tmp_path):
    torch.save({"weight": torch.zeros(2, 3)}, tmp_path / "w.pt")
    with (
        zipfile.ZipFile(tmp_path / "w.pt") as sound,
        zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in sound.namelist():
            packed.writestr(name, sound.read(name) + bytes(5000))
    with pytest.raises(ValueError, match=r"packed.pt: broken file.*grows to \d+ bytes"):
        read_file(tmp_path / "packed.pt")


def test_names_that_are_no_text_do_not_fit(tmp_path):
    torch.save({0: torch.ones(2), "bias": torch.ones(2)}, tmp_path / "w.pt")
    assert load_weights(nn.Linear(3, 2), tmp_path / "w.pt").loaded == 1
    torch.save({0: torch.ones(2)}, tmp_path / "none.pt")
    with pytest.raises(ValueError, match="nothing in this file fits"):
        load_weights(nn.Linear(3, 2), tmp_path / "none.pt")


def test_missing_file_and_nothing_that_fits(tmp_path):
    with pytest.raises(ValueError, match="nothere.pt: no such"):
        read_file(tmp_path / "nothere.pt")
    torch.save({"other": torch.ones(2)}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="nothing in this file fits"):
        load_weights(nn.Linear(3, 2), tmp_path / "w.pt")
