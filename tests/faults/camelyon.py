"""Broken tables, detections and outlines of CAMELYON."""

import json
from collections.abc import Callable
from pathlib import Path

from tests.faults.case import Case

_RING = [[0, 0], [4000, 0], [4000, 4000], [0, 4000], [0, 0]]
_POINTS = "".join(f'<Coordinate Order="{n}" X="{x}" Y="{y}"/>' for n, (x, y) in enumerate(_RING))
ASAP = (
    '<ASAP_Annotations><Annotations><Annotation Name="A0" PartOfGroup="_0">'
    f"<Coordinates>{_POINTS}</Coordinates></Annotation></Annotations></ASAP_Annotations>"
)
GEOJSON = json.dumps({"type": "Polygon", "coordinates": [_RING]})
NODES = [f"patient_000_node_{k}" for k in range(5)]


def labels(name: str, challenge: int, line: str, *expected: str) -> Case:
    """A line of a table of labels."""

    def build(folder: Path) -> list[object]:
        (folder / "labels.csv").write_text(f"slide_id,label,center\n{line}\n")
        words = ["--labels", folder / "labels.csv", "--out", folder / "slides.csv"]
        return ["evaluate", "camelyon-splits", "--challenge", challenge, *words]

    return Case("CAMELYON labels", name, build, ("labels.csv", *expected))


def froc(name: str, change: Callable[[Path], object], *expected: str) -> Case:
    """Change a folder with one slide, its detections and its outlines."""

    def build(folder: Path) -> list[object]:
        for part, file, text in (("found", "a.csv", "0.9,5,5\n"), ("outlines", "a.xml", ASAP)):
            (folder / part).mkdir()
            (folder / part / file).write_text(text)
        change(folder)
        given = ["--detections", folder / "found", "--annotations", folder / "outlines"]
        return ["evaluate", "froc", *given, "--out", folder / "froc.json"]

    return Case("FROC", name, build, expected)


def stages(name: str, predictions: str, *expected: str, truth: str | None = None) -> Case:
    """Stage one patient."""

    def build(folder: Path) -> list[object]:
        lines = "".join(f"{node},0\n" for node in NODES)
        (folder / "truth.csv").write_text(truth or f"slide_id,label\n{lines}")
        (folder / "says.csv").write_text(predictions)
        given = ["--predictions", folder / "says.csv", "--truth", folder / "truth.csv"]
        return ["evaluate", "pn-stage", *given]

    return Case("pN stages", name, build, expected)


def text(place: str, content: str) -> Callable[[Path], object]:
    """Write a file."""
    return lambda folder: (folder / place).write_text(content)


def gone(place: str) -> Callable[[Path], object]:
    """Remove a file."""
    return lambda folder: (folder / place).unlink()


def _points(folder: Path) -> None:
    (folder / "outlines/a.xml").unlink()
    (folder / "outlines/a.geojson").write_text('{"type": "Point", "coordinates": [1, 2]}')


ALL = f"bag_id,prediction\n{''.join(f'{node},0' + chr(10) for node in NODES)}"
FOUR = "slide_id,label\n" + "".join(f"{node},0\n" for node in NODES[:4])
CASES = [
    labels("the duplicate", 16, "test_049,1,", "test_049", "duplicate", "remove the line"),
    labels("the renamed slide", 16, "normal_086,0,", "normal_086", "tumor_111", "remove"),
    labels("another label than the name", 16, "tumor_001,0,", "tumor_001", "correct the label"),
    labels("slides of the other challenge", 16, "patient_000_node_0,0,0", "no slide of CAMELYON16"),
    labels("a class of 4", 17, "patient_000_node_0,4,0", "line 2", "'4'", "0 to 3"),
    labels("a sixth centre", 17, "patient_000_node_0,1,5", "line 2", "'5'", "0 to 4"),
    labels("a sixth node", 17, "patient_000_node_5,1,0", "no slide of CAMELYON17", "name it"),
    froc("two numbers in a row", text("found/a.csv", "0.9,5\n"), "line 1", "probability,x,y"),
    froc("a logit", text("found/a.csv", "3.9,5,5\n"), "a.csv, line 1", "[0, 1]"),
    froc("no detections", gone("found/a.csv"), "found", "no detections", "give the folder"),
    froc("no outlines", gone("outlines/a.xml"), "outlines", "no outlines", "give the folder"),
    froc("outlined twice", text("outlines/a.geojson", GEOJSON), "slide a", "also", "keep one file"),
    froc("an unknown group", text("outlines/a.xml", ASAP.replace('"_0"', '"_9"')), "'_9'", "name"),
    froc("XML cut off", text("outlines/a.xml", ASAP[:90]), "a.xml", "export the outlines again"),
    froc("points as outlines", _points, "a.geojson", "a Point", "export the outlines again"),
    froc("in metres", text("outlines/a.xml", ASAP.replace("4000", "4e9")), "a.xml", "--mpp"),
    froc("tiny lesions", text("outlines/a.xml", ASAP.replace("4000", "9")), "no sensitivity"),
    stages("four predictions", ALL.replace(f"{NODES[4]},0\n", ""), "says.csv", NODES[4], "predict"),
    stages("another slide", f"{ALL}x,0\n", "slide x", "not in", "remove or add"),
    stages("a slide twice", f"{ALL}{NODES[0]},0\n", "line 7", "twice", "keep one line"),
    stages("a class of its own", ALL.replace(",0", ",big"), "'big'", "no class", "macro"),
    stages("a binary model", f"bag_id,score,prediction\n{NODES[0]},.5,1\n", "score", "each class"),
    stages("four slides", FOUR, "truth.csv", "4 slides", "5 slides", truth=FOUR),
    stages("no patients", ALL, "truth.csv", "patient", truth="slide_id,label\nx,0\n"),
]  # fmt: skip
