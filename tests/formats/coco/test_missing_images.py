"""Where image files are instead."""

import pytest

from formats.coco.missing_images import ADD_FILE, Elsewhere


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("train/a.png", "a.png"),
        ("C:\\data\\a.png", "a.png"),
        ("b.png", "deep/b.png"),
        ("other/b.png", "deep/b.png"),
        ("c.png", None),
        ("twice.png", None),  # in two folders: nobody knows which
    ],
)
def test_a_file_elsewhere_in_the_folder_is_named(tmp_path, name, found):
    for place in ("a.png", "deep/b.png", "deep/twice.png", "other/twice.png", "c.txt"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).touch()
    remedy = Elsewhere(tmp_path).remedy(name)
    expected = f"the file is in {tmp_path}: write {found!r} as its file_name"
    assert remedy == (expected if found else ADD_FILE)
