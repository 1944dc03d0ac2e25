"""Draw an image whose detections score differently under each open-world protocol.

Run `python benchmarks/open_world/figure.py --annotations A.json --images DIR --predictions P.json
--known SPLIT [--cap 4] --out F.png` on results with masks. It looks for the image with the most
different recalls at the cap, takes the first by id among equals, draws its objects beside the best
detections, and prints the recall under each protocol.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from evaluation.open_world.protocols import evaluate_protocol
from evaluation.seg.draw import ImageArray, colour_of, draw_instances, side_by_side
from evaluation.seg.legend import with_legend
from formats.coco.results import Row, load_ground_truth, read_results
from formats.coco.splits import CategorySplit, find_split
from formats.files import atomic_write
from formats.images import read_rgb
from structures import RLEMasks

PROTOCOLS = ("exclude-known", "novel-only", "all", "class-wise")
KNOWN, NOVEL, DETECTION = 2, 1, 0  # labels, for their colours
KEPT = 300  # detections of an image that are looked at
Record = Mapping[str, Any]


def recalls(
    truth: Mapping[str, Any], rows: Sequence[Row], split: CategorySplit, cap: int
) -> dict[str, float]:
    """Return mask AR at the cap under each protocol."""
    return {
        protocol: evaluate_protocol(
            protocol,  # type: ignore[arg-type]
            truth,
            rows,
            split,
            caps=[cap, KEPT],
            iou_types=("segm",),
        )[f"segm_ar_{cap}"]
        for protocol in PROTOCOLS
    }


def chosen_image(
    truth: Mapping[str, Any], rows: Sequence[Row], split: CategorySplit, cap: int
) -> tuple[dict[str, Any], list[Row], dict[str, float]]:
    """Return the ground truth and the rows of one image, and its recalls."""
    best: tuple[float, dict[str, Any], list[Row], dict[str, float]] | None = None
    for image in truth["images"]:
        own = {k: [a for a in truth[k] if a["image_id"] == image["id"]] for k in ("annotations",)}
        alone = {**truth, "images": [image], **own}
        found = [row for row in rows if row["image_id"] == image["id"]]
        values = recalls(alone, found, split, cap)
        numbers = sorted(values.values())
        apart = float(np.min(np.diff(numbers)))  # nan where an image has no novel object
        if np.isfinite(apart) and (best is None or apart > best[0] + 1e-9):
            best = apart, alone, found, values
    if best is None or best[0] == 0:
        raise ValueError("no image has different recalls under all protocols; use another cap")
    return best[1:]


def drawn(image: ImageArray, records: Sequence[Record], labels: Sequence[int]) -> ImageArray:
    """Draw records with masks in the colours of labels."""
    boxes = np.array([r["bbox"] for r in records], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    masks = RLEMasks.from_coco([r["segmentation"] for r in records], image.shape[:2])
    return draw_instances(image, boxes, np.array(labels, dtype=np.int64), masks, ["", "", ""])


def main() -> int:
    """Choose an image, draw it and print its recalls."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("annotations", "images", "predictions", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--known", nargs="+", required=True)
    parser.add_argument("--cap", type=int, default=4, help="detections of an image that count")
    args = parser.parse_args()
    truth = load_ground_truth(args.annotations)
    rows, _ = read_results(args.predictions, {"images": truth["images"]})
    split = find_split(args.known, truth["categories"], str(args.annotations))
    own, found, values = chosen_image(truth, rows, split, args.cap)
    record = own["images"][0]
    image = read_rgb(args.images / record["file_name"])
    objects = own["annotations"]
    kinds = [KNOWN if o["category_id"] in split.known else NOVEL for o in objects]
    shown = sorted(found, key=lambda row: -row["score"])[: args.cap + 2]
    pair = side_by_side(
        drawn(image, objects, kinds),
        drawn(image, shown, [DETECTION] * len(shown)),
        (f"{record['file_name']}: objects", f"its {len(shown)} best detections"),
    )
    text = ", ".join(f"{name} {value:.2f}" for name, value in values.items())
    pieces = [
        ("known object", colour_of(KNOWN)),
        ("novel object", colour_of(NOVEL)),
        ("detection", colour_of(DETECTION)),
        (f"AR@{args.cap}: {text}", None),
    ]
    from PIL import Image

    with atomic_write(args.out) as file:
        Image.fromarray(with_legend(pair, pieces)).save(file, format="PNG")
    print(f"{record['file_name']}: {text}")
    for row in shown:
        print(f"score {row['score']:.3f}, box {[round(v) for v in row['bbox']]}")
    for one, kind in zip(objects, kinds, strict=True):
        which = "known" if kind == KNOWN else "novel"
        print(f"{which}, category {one['category_id']}, box {[round(v) for v in one['bbox']]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
