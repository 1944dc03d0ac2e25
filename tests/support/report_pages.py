"""Pages of the report with invented numbers: scenes of wobbly discs, and bags of small images."""

import io
import math

import numpy as np
from PIL import Image, ImageDraw

from evaluation.report.page.content import (
    AttendedBag,
    AttendedInstance,
    Chart,
    ErrorKinds,
    GalleryImage,
    Headline,
    Line,
    Link,
    Matrix,
    Outline,
    Page,
    Recipe,
    Reliability,
    RunFacts,
    Table,
    Value,
)

CLASSES = (
    "apple",
    "apple, partly hidden behind the leaves of the next row of trees",
    "pear",
    "<img src=x onerror=alert(1)>",
    "leaf & stem",
)
RUNS = ("mask_rcnn", "yolo_seg_with_a_rather_long_name_of_a_run/version_12", "eomt")
SIZE = (320, 240)
CURVE = tuple(i / 100 for i in range(101))


def encoded(image, kind="JPEG"):
    stream = io.BytesIO()
    image.save(stream, kind, quality=85)
    return stream.getvalue()


def disc(x, y, radius, rng, points=40):
    """Corners of a disc whose radius wobbles."""
    phase, waves = rng.uniform(0, 6), rng.integers(2, 6)
    ring = []
    for angle in np.linspace(0, 2 * math.pi, points, endpoint=False):
        r = radius * (1 + 0.12 * math.sin(waves * angle + phase))
        ring.append((float(x + r * math.cos(angle)), float(y + r * math.sin(angle))))
    return tuple(ring)


def area(ring):
    x, y = np.array(ring).T
    return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)


def scene(rng, bright):
    """An image and its objects: (label, x, y, radius, ring)."""
    width, height = SIZE
    ramp = np.linspace(0, 50, width)[None, :, None] + (150 if bright else 20)
    array = np.clip(rng.normal(ramp + np.array([0, 14, -8]), 9, (height, width, 3)), 0, 255)
    image = Image.fromarray(array.astype(np.uint8))
    draw, objects = ImageDraw.Draw(image), []
    for _ in range(rng.integers(0, 9)):
        x, y, radius = rng.uniform(20, 300), rng.uniform(20, 220), rng.uniform(8, 36)
        label = int(rng.choice(5, p=(0.4, 0.25, 0.2, 0.1, 0.05)))
        ring = disc(x, y, radius, rng)
        draw.polygon(ring, fill=tuple(int(c) for c in rng.integers(60, 230, 3)))
        objects.append((label, x, y, radius, ring))
    return image, objects


def predictions(rng, objects):
    """What an imperfect model says about a scene."""
    found = []
    for label, x, y, radius, _ in objects:
        kind = str(rng.choice(["correct", "correct", "correct", "cls", "loc", "both", "miss"]))
        if kind == "miss":
            continue
        shift = 0.8 * radius if kind in ("loc", "both") else 0.1 * radius
        ring = disc(x + shift, y, radius * rng.uniform(0.9, 1.1), rng)
        guess = (label + 1) % 5 if kind in ("cls", "both") else label
        score = float(rng.uniform(0.35, 1))
        iou = 0.35 if shift > 0.5 * radius else 0.84
        found.append(Outline(guess, (ring,), score, kind, iou, area(ring)))
        if rng.random() < 0.15:
            found.append(Outline(guess, (ring,), score / 2, "dupe", iou, area(ring)))
    for _ in range(rng.integers(0, 3)):
        ring = disc(rng.uniform(20, 300), rng.uniform(20, 220), rng.uniform(6, 20), rng)
        found.append(
            Outline(int(rng.integers(5)), (ring,), float(rng.uniform(0.05, 0.9)), "bkg", 0.02, 300)
        )
    return tuple(found)


def gallery(runs, images):
    rng, shown = np.random.default_rng(3), []
    for i in range(images):
        image, objects = scene(rng, bright=i % 2 == 1)
        truth = tuple(
            Outline(
                label, (ring,), None, "miss" if rng.random() < 0.2 else "found", None, area(ring)
            )
            for label, *_, ring in objects
        )
        shown.append(
            GalleryImage(
                f"image_{i}",
                f"orchard_2024_row{i:02}_tree{i * 7 % 13:02}_camera_left.jpg",
                *SIZE,
                encoded(image),
                "image/jpeg",
                truth,
                tuple(predictions(rng, objects) for _ in range(runs)),
                f"F1 .{40 + 2 * i}",
            )
        )
    return tuple(shown)


def values(rng, count, top=0.8):
    middle = rng.uniform(0.3, top, count)
    return tuple(Value(float(m), float(m - 0.05), float(m + 0.04)) for m in middle)


def training(names):
    epochs = tuple(float(e) for e in range(30))
    fall = [
        tuple((2 - 0.3 * r) * math.exp(-e / 9) + 0.2 for e in epochs) for r in range(len(names))
    ]
    rise = [tuple(0.7 * (1 - math.exp(-e / (6 + r))) for e in epochs) for r in range(len(names))]
    loss = [
        line
        for r, (n, f) in enumerate(zip(names, fall, strict=True))
        for line in (
            Line(f"{n} train", epochs, f, run=r),
            Line(f"{n} val", epochs, tuple(v + 0.1 + 0.01 * i for i, v in enumerate(f)), True, r),
        )
    ]
    metric = [Line(n, epochs, (None, *r[1:])) for n, r in zip(names, rise, strict=True)]
    rate = tuple(1e-3 * 0.5 * (1 + math.cos(math.pi * e / 30)) for e in epochs)
    return (
        Chart("loss", "Loss", "epoch", "loss", tuple(loss)),
        Chart("metric", "Mask AP on validation images", "epoch", "AP", tuple(metric)),
        Chart("rate", "Learning rate", "epoch", "rate", (Line("rate", epochs, rate),), log_y=True),
    )


def reliability(rng, run, subject):
    confidence = tuple(float(c) for c in np.linspace(0.05, 0.95, 10))
    return Reliability(
        run,
        subject,
        confidence,
        tuple(c**1.4 for c in confidence),
        tuple(int(n) for n in rng.integers(5, 400, 10)),
        tuple(c - 0.06 for c in confidence),
        tuple(c + 0.06 for c in confidence),
        {"ECE": 0.081, "MCE": 0.19, "Brier score": 0.142, "log loss": 0.44, "temperature": None},
    )


def facts(name, count):
    return RunFacts(
        name,
        f"runs/{name}",
        "models.seg.mask_rcnn.MaskRCNN",
        "checkpoints/best.ckpt",
        "data/orchard/annotations/instances_test.json",
        "test",
        count,
        21,
        29,
        12_000,
        5231.0,
        3100.5,
        44_401_393,
    )


def recipe(name):
    return Recipe(
        name,
        "seed_everything: 0\nmodel:\n  class_path: MaskRCNN\n  init_args:\n    num_classes: 5\n"
        * 5,
        (
            (
                "AP of masks and boxes",
                f"python evaluate.py coco --ckpt runs/{name}/best.ckpt --draws 1000",
            ),
            ("The model", "python train.py fit --config configs/seg/mask_rcnn.yaml"),
        ),
        (("torch", "2.10.0"), ("git", "ba300a4"), ("data (sha256)", "4f2c" * 16)),
    )


def errors(rng, run, task):
    gains = dict(zip(("cls", "loc", "both", "dupe", "bkg", "miss", "fp", "fn"),
                     map(float, rng.uniform(0, 0.12, 8)), strict=True))  # fmt: skip
    counts = {k: int(g * 1000) for k, g in list(gains.items())[:6]}
    rows = tuple((n, *map(float, rng.uniform(0, 0.1, 6))) for n in CLASSES)
    table = Table("Gain by class", ("class", "cls", "loc", "both", "dupe", "bkg", "miss"), rows)
    return ErrorKinds(run, task, gains, counts, (table,))


def seg_page(runs=3, images=24):
    """A page of segmentation with every section."""
    rng, names = np.random.default_rng(0), RUNS[:runs]
    labels = ("Mask AP", "Mask AP50", "Mask AP75", "Box AP", "Recall", "F1 at .50")
    unit = tuple(
        Line(n, CURVE, tuple(1 - c ** (2 + i) for c in CURVE)) for i, n in enumerate(names)
    )
    matrix = rng.integers(0, 90, (6, 6)) + np.diag([300] * 6)
    cells = tuple(tuple(map(float, rng.uniform(0.1, 0.6, 5))) for _ in range(8))
    class_rows = tuple((n, int(rng.integers(9, 400)), *values(rng, 4)) for n in CLASSES)
    worst = tuple(
        (Link(f"orchard_2024_row{i:02}.jpg", f"image_{i}"), 0.4 + i / 50, i % 4, i % 3)
        for i in range(min(8, images))
    )
    return Page(
        "Orchard, test split",
        "seg",
        tuple(facts(n, 240) for n in names),
        CLASSES,
        tuple(Headline(f"metric_{i}", n, values(rng, runs)) for i, n in enumerate(labels)),
        ("2 images could not be read and were left out.",),
        training=training(names),
        class_tables=(
            Table(
                "AP by class",
                ("class", "objects", "AP", "AP50", "AP small", "AP large"),
                class_rows,
            ),
        ),
        curves=(
            Chart("pr", "Precision and recall", "recall", "precision", unit, unit=True),
            Chart("f1", "F1 by score", "score", "F1", unit, unit=True),
        ),
        confusion=tuple(
            Matrix(
                "Confusion at IoU .5",
                n,
                "truth",
                "prediction",
                (*CLASSES, "background"),
                (*CLASSES, "missed"),
                tuple(map(tuple, matrix.tolist())),
                True,
            )
            for n in names[:2]
        ),
        errors=tuple(errors(rng, n, t) for t in ("segm", "box") for n in names),
        calibration=tuple(reliability(rng, n, "detections (masks)") for n in names),
        mistakes=(
            Table(
                "Images by F1",
                ("image", "F1", "false positives", "missed"),
                worst,
                "At a score of .5.",
            ),
            Table(
                "Largest missed objects",
                ("image", "class", "area"),
                tuple((w[0], CLASSES[i % 5], 900 - i) for i, w in enumerate(worst)),
            ),
        ),
        gallery=gallery(runs, images),
        robustness=(
            Matrix(
                "Mask AP under corruptions",
                names[0],
                "corruption",
                "severity",
                (
                    "gaussian_noise",
                    "shot_noise",
                    "motion_blur",
                    "fog",
                    "frost",
                    "brightness",
                    "contrast",
                    "jpeg_compression",
                ),
                ("1", "2", "3", "4", "5"),
                cells,
            ),
        ),
        compare=(
            Table(
                "Differences to mask_rcnn",
                ("run", "metric", "difference", "p"),
                tuple(
                    (n, m, Value(0.021, -0.004, 0.045), 0.041)
                    for n in names[1:]
                    for m in labels[:3]
                ),
            ),
        )
        if runs > 1
        else (),
        recipes=tuple(map(recipe, names)),
    )


def patch(rng):
    array = rng.normal(150, 30, (64, 64, 3))
    array[16:48, 16:48] += rng.uniform(-100, 60, 3)
    return encoded(Image.fromarray(np.clip(array, 0, 255).astype(np.uint8)))


def bags(runs, count):
    rng, shown = np.random.default_rng(5), []
    names = [
        "</script>",
        *(f"slide {i:03} of the hospital's second series" for i in range(1, count)),
    ]
    for b, name in enumerate(names):
        files = [patch(rng) for _ in range(10)]
        attended = []
        for _ in range(runs):
            weights = np.sort(rng.dirichlet(np.full(10, 0.4)))[::-1]
            order = rng.permutation(10)
            attended.append(
                tuple(
                    AttendedInstance(
                        int(i), float(w), (float(997 * i), float(512 * (i % 4))) if b % 2 else None,
                        files[i] if b % 3 != 2 else None, "image/jpeg", bool(i % 5 == 0),
                    )
                    for i, w in zip(order, weights, strict=True)
                )
            )  # fmt: skip
        wrong = tuple(bool(rng.random() < 0.5) for _ in range(runs))
        guesses = tuple("tumour (.91)" if w else "normal (.98)" for w in wrong)
        shown.append(AttendedBag(f"bag_{b}", name, "normal", guesses, 10, tuple(attended), wrong))
    return tuple(shown)


def mil_page(runs=1, count=8):
    """A page of bags; there is no training, gallery or robustness."""
    rng, names = np.random.default_rng(1), RUNS[:runs]
    roc = tuple(
        Line(n, CURVE, tuple(c ** (0.3 + 0.1 * i) for c in CURVE)) for i, n in enumerate(names)
    )
    shown = bags(runs, count)
    return Page(
        "Slides, validation split",
        "mil",
        tuple(facts(n, 130) for n in names),
        ("normal", "tumour"),
        (
            Headline("bag_auroc", "AUROC", values(rng, runs)),
            Headline("log_loss", "Log loss", (Value(1.2),) * runs, higher_is_better=False),
            Headline("undefined", "AUPRC", (Value(None),) * runs),
        ),
        curves=(
            Chart("roc", "ROC", "false positive rate", "true positive rate", roc, True, unit=True),
        ),
        confusion=(
            Matrix(
                "Bags at .5",
                names[0],
                "truth",
                "prediction",
                ("normal", "tumour"),
                ("normal", "tumour"),
                ((60, 5), (9, 56)),
                True,
            ),
        ),
        calibration=(reliability(rng, names[0], "bags"),),
        mistakes=(
            Table(
                "Most confident wrong bags",
                ("bag", "truth", "predicted", "probability"),
                tuple(
                    (Link(b.name, b.key), "normal", "tumour", 0.97 - i / 50)
                    for i, b in enumerate(shown[:5])
                ),
            ),
        ),
        attention=shown,
        recipes=tuple(map(recipe, names)),
    )
