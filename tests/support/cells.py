"""Made cells of robustness for tests."""

from pathlib import Path

from evaluation.robustness.names import BENCHMARK, EXTRA

HEADER = "model,corruption,severity,task,metric,value"
PUBLISHED = Path(__file__).resolve().parents[3] / "shared/specs/splits/coco_c_mask_rcnn_r50.csv"


def value(name: str, number: int, severity: int, loss: float = 0.1) -> float:
    """Return a value that falls with the severity and differs between all cells and metrics."""
    start = {"segm_map": 0.8, "box_map": 0.85, "segm_map_50": 0.9}.get(name, 0.7)
    return start - loss * severity - 0.001 * number * severity


def rows(
    model: str = "a",
    corruptions: tuple[str, ...] = BENCHMARK + EXTRA,
    names: tuple[str, ...] = ("segm_map", "segm_map_50", "box_map"),
    loss: float = 0.1,
) -> list[str]:
    """Return the lines of a complete table without its header."""
    found = []
    for number, corruption in enumerate(("clean", *corruptions)):
        for severity in (0,) if corruption == "clean" else (1, 2, 3, 4, 5):
            for name in names:
                task, _, metric = name.partition("_")
                cell = value(name, number, severity, loss)
                found.append(f"{model},{corruption},{severity},{task},{metric},{cell!r}")
    return found


def write(path: Path, lines: list[str], header: str = HEADER) -> Path:
    """Write a table of cells."""
    path.write_text("\n".join([header, *lines]) + "\n")
    return path
