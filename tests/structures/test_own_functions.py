"""Functions of users by their dotted names."""

import sys

import numpy as np
import pytest

from structures.own_functions import changed_by, imported


def test_a_function_in_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "own_values.py").write_text(
        "def moved(values, severity, rng):\n"
        "    values += severity * rng.integers(1, 9)\n"
        "    return values\n"
    )
    (tmp_path / "own_script.py").write_text("raise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    values = np.arange(6).reshape(2, 3)
    found = changed_by("own_values.moved", values, 2, 7)
    np.testing.assert_array_equal(found, values + 2 * np.random.default_rng(7).integers(1, 9))
    np.testing.assert_array_equal(values, np.arange(6).reshape(2, 3))
    with pytest.raises(ValueError, match="importing own_script raised SystemExit: 3"):
        imported("own_script.run")
    for name in ("moved", ".moved", "own values.moved"):
        with pytest.raises(ValueError, match="is not a dotted name; write package.module.function"):
            imported(name)
