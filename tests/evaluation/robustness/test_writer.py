"""Tables of cells that grow: killed at any moment, torn, of another evaluation."""

import dataclasses
import json
import os
import signal
import subprocess
import sys

import pytest

import formats.files
from evaluation.robustness.grid import places, read_grids
from evaluation.robustness.names import LIBRARY
from evaluation.robustness.scores import summarise
from evaluation.robustness.writer import CellWriter, Origin, origin_path, path_of, read_origin
from structures import DataProblems
from tests.support.killed_writer import pretended
from tests.support.layers import ROOT

ORIGIN = Origin({"a": "1a", "b": "1b"}, data="d", seed=0, settings={"tile": None, "tta": [1.0]})
ALL = [(model, *place) for place in places(["fog", "snow"], (1, 5)) for model in "ab"]


@pytest.fixture
def quick(monkeypatch):
    """Do not wait for the disk."""
    monkeypatch.setattr(formats.files.os, "fsync", lambda _: None)


def evaluate(path, cells=ALL, origin=ORIGIN):
    """Write the cells that are missing and return those."""
    predicted = []
    with CellWriter(path, origin) as table:
        for cell in cells:
            if cell not in table:
                predicted.append(cell)
                table.add(*cell, pretended(*cell))
    return predicted


@pytest.mark.usefixtures("quick")
def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "new" / "cells.csv"
    with CellWriter(path, ORIGIN) as table:
        table.add("a", "clean", 0, {"segm_map": 1 / 3, "box_map": float("nan"), "segm_ar_1": 0.1})
        table.add("a", 'a,b "c"', 2, {"segm_map": 1e-17, "box_map": 0.1 + 0.2})
        grids = table.grids
    assert read_grids([path]) == grids
    assert path.read_text().splitlines() == [
        "model,corruption,severity,task,metric,value",
        "a,clean,0,segm,map,0.3333333333333333",
        'a,"a,b ""c""",2,segm,map,1e-17',
        'a,"a,b ""c""",2,box,map,0.30000000000000004',
    ]
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "cells.csv", "cells.csv.origin.json"
    ]  # fmt: skip
    assert summarise(grids).metrics["a"]["segm_map_clean"] == 1 / 3


@pytest.mark.usefixtures("quick")
def test_the_same_command_again_predicts_nothing(tmp_path):
    path = tmp_path / "cells.csv"
    assert evaluate(path, ALL[:3]) == ALL[:3]
    assert evaluate(path) == ALL[3:]
    table = path.read_bytes()
    assert evaluate(path) == []
    assert path.read_bytes() == table
    path.write_bytes(
        table.replace(b"fog,5,", b"fog,5.0,").replace(b"\n", b"\r\n")
    )  # as others save
    assert evaluate(path) == []
    assert path.read_bytes() == table
    more = dataclasses.replace(ORIGIN, checkpoints={"a": "1a", "b": "1b", "c": "1c"})
    assert evaluate(path, [*ALL, ("c", "clean", 0)], more) == [("c", "clean", 0)]


@pytest.mark.usefixtures("quick")
def test_a_table_that_breaks_off_anywhere(tmp_path):
    """The cell that is not whole is predicted again, and no other of those before it."""
    path = tmp_path / "cells.csv"
    cells = ALL[:3]
    evaluate(path, cells)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    ends = [len(b"".join(lines[: 1 + 3 * n])) for n in range(len(cells) + 1)]
    at_lines = [len(b"".join(lines[:n])) + k for n in range(len(lines)) for k in (-2, -1, 0, 1, 2)]
    for size in sorted({min(max(size, 0), len(whole)) for size in at_lines} | {15, len(whole)}):
        path.write_bytes(whole[:size])
        kept = sum(size >= end for end in ends[1:])
        assert evaluate(path, cells) == cells[kept:]
        assert path.read_bytes() == whole


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"checkpoints": {"a": "2", "b": "1b"}}, "the checkpoint of a was 1a and is 2"),
        ({"checkpoints": {"a": "1a"}}, "has cells of b, which is not evaluated now"),
        ({"data": "e"}, "data was d and is e"),
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"path": "exact"}, "path was fast and is exact"),
        ({"settings": {"tile": 512, "tta": [1.0]}}, "tile was None and is 512"),
        ({"settings": {"tta": (1.0,), "scale": 2}}, "scale was None and is 2"),
    ],
)
def test_a_table_of_another_evaluation(tmp_path, change, told):
    path = tmp_path / "cells.csv"
    evaluate(path)
    if "checkpoints" not in change:
        path.write_bytes(path.read_bytes() + b"a,sno")  # also where it breaks off
    before = [file.read_bytes() for file in (path, origin_path(path))]
    other = dataclasses.replace(ORIGIN, **change)
    with pytest.raises(DataProblems, match=told) as error:
        evaluate(path, origin=other)
    assert str(error.value).startswith(f"{path}: is of another evaluation: ")
    assert "--cells" in str(error.value)
    assert [file.read_bytes() for file in (path, origin_path(path))] == before
    assert evaluate(path) == []  # the lock is free


@pytest.mark.usefixtures("quick")
def test_domains_of_a_table(tmp_path):
    """A domain is known by its own hash, and may have fewer metrics than the model's first cell."""
    path = tmp_path / "cells.csv"
    origin = dataclasses.replace(ORIGIN, domains={"night": "n", "rain": "r"})
    few = {"segm_map": 0.25}
    with CellWriter(path, origin) as table:
        table.add("a", "domain:rain", 0, few)
        table.add("a", "clean", 0, pretended("a", "clean", 0))
        table.add("b", "clean", 0, pretended("b", "clean", 0))
        table.add("a", "domain:night", 0, few)
    whole = path.read_bytes()
    assert evaluate(path, [("a", "domain:night", 0)], origin) == []
    assert read_origin(path)["domains"] == {
        "rain": {"data": "r", "metrics": {"a": ["segm_map"]}},
        "night": {"data": "n", "metrics": {"a": ["segm_map"]}},
    }
    path.write_bytes(whole[: whole.rindex(b"a,domain")])
    assert evaluate(path, ALL[2:3]) == ALL[2:3]  # without domains
    assert list(read_origin(path)["domains"]) == ["rain"]
    assert read_origin(path)["models"]["a"]["metrics"] == list(pretended("a", "fog", 1))[:3]
    other = dataclasses.replace(ORIGIN, domains={"night": "m", "rain": "s"})
    with pytest.raises(DataProblems, match="data of the domain rain were r and are s") as error:
        evaluate(path, origin=other)
    assert "night" not in str(error.value)
    record = origin_path(path)
    record.write_text(record.read_text().replace('"rain"', '"fog"'))
    with pytest.raises(DataProblems, match="nothing says what its cells of the domain rain"):
        evaluate(path)


@pytest.mark.usefixtures("quick")
def test_a_last_cell_without_a_value_is_not_predicted_again(tmp_path):
    """Constant predictions have no correlation; a copy that breaks off lacks other metrics."""
    path, cells = tmp_path / "cells.csv", [("a", *place) for place in places(["fog"], (1, 2))]
    both = {"bag_r2": 0.5, "bag_pearson": 0.6, "bag_spearman": 0.7}
    some = {"bag_r2": -1.0, "bag_pearson": float("nan"), "bag_spearman": float("nan")}

    def write():
        new = []
        with CellWriter(path, ORIGIN) as table:
            for cell in cells:
                if cell not in table:
                    new.append(cell)
                    table.add(*cell, some if cell[2] else both)
        return new

    assert write() == cells
    whole = path.read_bytes(), origin_path(path).read_bytes()
    assert write() == []
    assert (path.read_bytes(), origin_path(path).read_bytes()) == whole
    assert whole[0].endswith(b"a,fog,2,bag,r2,-1.0\n")
    path.write_bytes(whole[0][: whole[0].index(b"a,clean,0,bag,spearman")])
    assert write() == cells
    assert (path.read_bytes(), origin_path(path).read_bytes()) == whole


@pytest.mark.usefixtures("quick")
def test_a_table_of_unknown_origin(tmp_path):
    path = tmp_path / "cells.csv"
    evaluate(path)
    record, table = origin_path(path), path.read_text()
    path.write_text(table + "c,fog,1,segm,map,0.5\n")
    with pytest.raises(DataProblems, match="nothing says what its cells of c were made from"):
        evaluate(path)
    path.write_text(table)
    for text in ("{", "[]", '{"shared": {}, "models": {"a": {}}}', '{"shared": {}, "models": 3}'):
        record.write_text(text)
        with pytest.raises(DataProblems, match=r"does not say what cells.csv was made from"):
            evaluate(path)
    record.unlink()
    assert read_origin(path) is None
    with pytest.raises(DataProblems, match=r"has no cells\.csv\.origin\.json"):
        evaluate(path)
    path.write_text("bag_id,label,score\n")
    with pytest.raises(DataProblems, match="is no table of cells"):
        evaluate(path)
    path.unlink()
    assert evaluate(path) == ALL


@pytest.mark.usefixtures("quick")
def test_the_version_of_the_library_counts_where_it_is_needed(tmp_path):
    path = tmp_path / "cells.csv"
    without, old, new = (
        dataclasses.replace(ORIGIN, settings={LIBRARY: version}) for version in (None, "1", "2")
    )
    evaluate(path, ALL[:2], without)
    evaluate(path, ALL[:4], old)
    evaluate(path, ALL[:4], without)
    assert read_origin(path)["shared"][LIBRARY] == "1"
    assert evaluate(path, ALL[:4], old) == []
    with pytest.raises(DataProblems, match=f"{LIBRARY} was 1 and is 2"):
        evaluate(path, ALL, new)
    other = tmp_path / "other.csv"
    evaluate(other, ALL[:2], without)
    origins = {file: read_origin(file) for file in (path, other)}
    assert path_of(origins) == ("fast", [])
    origins[other]["shared"][LIBRARY] = "2"
    assert len(path_of(origins)[1]) == 1


@pytest.mark.usefixtures("quick")
def test_one_process_writes_at_a_time(tmp_path):
    path = tmp_path / "cells.csv"
    with (
        CellWriter(path, ORIGIN) as table,
        pytest.raises(DataProblems, match="another process writes it"),
        CellWriter(path, ORIGIN),
    ):
        pass
    assert table.grids == {}
    assert evaluate(path) == ALL


@pytest.mark.usefixtures("quick")
def test_cells_that_cannot_be_added(tmp_path):
    with CellWriter(tmp_path / "cells.csv", ORIGIN) as table:
        table.add("a", "fog", 1, {"segm_map": 0.5})
        for cell, metrics, told in (
            (("a", "fog", 1), {"segm_map": 0.5}, "has a fog 1 already"),
            (("c", "fog", 1), {"segm_map": 0.5}, "c is not among a, b"),
            (("a", "fog", 6), {"segm_map": 0.5}, "fog of severity 6"),
            (("a", "fog", 0), {"segm_map": 0.5}, "fog of severity 0"),
            (("a", "clean", 1), {"segm_map": 0.5}, "clean of severity 1"),
            (("a", "domain:x", 1), {"segm_map": 0.5}, "domain:x of severity 1"),
            (("a", "domain:x", 0), {"segm_map": 0.5}, "x is not among none"),
            (("a", "fog", 2), {"segm_map": float("nan"), "other": 1.0}, "no metric has a value"),
        ):
            with pytest.raises(ValueError, match=told):
                table.add(*cell, metrics)
    with pytest.raises(RuntimeError, match="is not open"):
        table.add("a", "fog", 2, {"segm_map": 0.5})
    ((_, cells),) = read_grids([tmp_path / "cells.csv"]).items()
    assert cells.cells == {("fog", 1): {"segm_map": 0.5}}


@pytest.mark.usefixtures("quick")
def test_what_tables_share(tmp_path):
    paths = [tmp_path / f"{name}.csv" for name in "abc"]
    evaluate(paths[0])
    evaluate(paths[1], origin=dataclasses.replace(ORIGIN, path="exact", seed=3))
    origins = {path: read_origin(path) for path in paths}
    assert path_of({paths[0]: origins[paths[0]]}) == ("fast", [])
    assert path_of(origins) == (
        None,
        [
            f"the tables were made with different values of seed: 0 in {paths[0]}, 3 in {paths[1]}",
            'the tables were made with different values of path: "fast" in '
            f'{paths[0]}, "exact" in {paths[1]}',
        ],
    )
    assert path_of({paths[0]: origins[paths[0]], paths[2]: None}) == (None, [])


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """What a process counts that starts and kills others, and its folder."""
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-W", "ignore", "-m", "tests.support.killed_writer", folder]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


FILES = ["cells.csv", "cells.csv.origin.json", "cells.csv.predictions"]
needs_kill = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")


@pytest.mark.slow
@needs_kill
def test_killed_at_random_moments(killed):
    folder, found = killed[0], killed[1]["random"]
    assert found["kills"] == 10
    assert found["unfinished"]
    assert found["cells"] == 76 * 2
    assert found["most_written"] == 1
    assert found["cells"] <= found["predictions"] <= found["cells"] + 10
    assert found["files"] == FILES
    assert found["kept"] == found["cells"]
    assert found["same"]
    lines = [
        f"{model},{c},{s},{name.replace('_', ',', 1)},{value!r}"
        for c, s in read_grids([folder / "killed" / "cells.csv"])["a"].cells
        for model in "ab"
        for name, value in pretended(model, c, s).items()
        if name != "box_ar_1"
    ]
    assert found["table"].splitlines()[1:] == lines


@pytest.mark.slow
@needs_kill
def test_killed_before_each_call(killed):
    found = killed[1]["calls"]
    assert len(found) > 20
    assert len({one["table"] for one in found}) == 1
    assert len({one["digest"] for one in found}) == 1
    assert {one["kept"] for one in found} == {4}
    assert found[0]["table"].count("\n") == 1 + 4 * 3
    assert {one["most_written"] for one in found} == {1}
    assert {one["cells"] for one in found} == {4}
    assert max(one["predictions"] for one in found) == 5
    assert all(one["files"] == FILES for one in found)
