import sys

import pytest

from structures.classes_by_place import classes_below


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "by_place"
    (folder / "below").mkdir(parents=True)
    (folder / "__init__.py").write_text("class AtTheTop: pass\n")
    (folder / "first.py").write_text("class First: pass\nAlias = First\nnumber = 3\n")
    (folder / "below" / "__init__.py").touch()
    (folder / "below" / "second.py").write_text(
        "from by_place.first import First\nfrom pathlib import Path\nclass Second(First): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "by_place"
    for name in [n for n in sys.modules if n.split(".")[0] == "by_place"]:
        del sys.modules[name]


def test_every_class_is_found_once_where_it_is_defined(package):
    found = [f"{c.__module__}.{c.__name__}" for c in classes_below(package)]
    assert sorted(found) == ["by_place.below.second.Second", "by_place.first.First"]


def test_a_module_that_cannot_be_imported_is_an_error(package, tmp_path):
    (tmp_path / "by_place" / "broken.py").write_text("import nothere_at_all\n")
    with pytest.raises(ImportError, match="nothere_at_all"):
        list(classes_below(package))
