import zipfile

import pytest
import torch

from formats.weights.archive import check_archive


def rewritten(path, target, method):
    """Write the entries of an archive again, as a zip program does."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", method) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return target


def test_packed_archives_are_refused(tmp_path):
    path = tmp_path / "a.pt"
    # of noise a packed archive is hardly smaller than its entries, or even larger
    for values in (torch.zeros(1000), torch.rand(1000)):
        torch.save(values, path)
        check_archive(path)
        check_archive(rewritten(path, tmp_path / "stored.pt", zipfile.ZIP_STORED))
        with pytest.raises(ValueError, match=r"compressed entries that grows to \d+ bytes"):
            check_archive(rewritten(path, tmp_path / "packed.pt", zipfile.ZIP_DEFLATED))


def test_other_files_are_left_to_their_readers(tmp_path):
    torch.save(torch.ones(3), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "text.pt").write_text("no archive")
    for name in ("old.pt", "text.pt", "absent.pt"):
        check_archive(tmp_path / name)
