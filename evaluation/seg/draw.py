"""Drawing of instances with translucent masks, contours, boxes and names, in numpy and PIL.

Small images are enlarged by an integer factor before drawing, so that lines and text stay readable
and every source pixel remains a square. In images with many instances, only masks and contours are
drawn.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from structures import RLEMasks, rle

ImageArray = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

LONG_SIDE = 480  # images with a shorter long side are enlarged to at least this
DENSE = 25  # with more instances than this, names and boxes would hide the image
FILL = 0.35  # opacity of a mask
CAPTION = 20  # height of the captions' letters

# Hue in degrees; neighbours in the list differ most, as neighbouring labels often occur together.
_HUES = (0, 205, 55, 285, 120, 25, 180, 325, 85, 250)
_RINGS = ((0.85, 1.0), (0.5, 1.0), (0.95, 0.65))  # saturation and value, one ring every ten labels


def colour_of(label: int) -> Colour:
    """Return the RGB colour of a label, distinct for the first 30 and the same in every image."""
    saturation, value = _RINGS[label // len(_HUES) % len(_RINGS)]
    red, green, blue = colorsys.hsv_to_rgb(_HUES[label % len(_HUES)] / 360, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_instances(
    image: ImageArray,
    boxes: Any,
    labels: Any,
    masks: RLEMasks | None,
    class_names: Sequence[str],
    *,
    scores: Any = None,
    crowd: Any = None,
) -> ImageArray:
    """Draw instances over an image.

    Colours show classes; in a data set of one class they show instances and the name is omitted.
    The highest score is drawn last, on top.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (K, 4) array or host tensor, (x1, y1, x2, y2) in pixels of ``image``.
        labels: (K,) 0-based classes.
        masks: K masks of size (H, W), or None to draw boxes only.
        class_names: name by label.
        scores: (K,) in [0, 1], or None for ground truth.
        crowd: (K,) bool, True for regions of many objects, which are hatched; None for none.

    Returns:
        (s H, s W, 3) uint8 with the integer factor s >= 1 of ``enlargement``.

    Raises:
        ValueError: the image is not (H, W, 3) uint8, or lengths or the mask size do not match.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    labels = np.asarray(labels, dtype=np.int64)
    _check(image, boxes, labels, masks)
    count, one_class = len(boxes), len(class_names) == 1
    scores = None if scores is None else np.asarray(scores, dtype=np.float64)
    order = np.arange(count) if scores is None else np.argsort(scores, kind="stable")
    regions = np.zeros(count, dtype=bool) if crowd is None else np.asarray(crowd, dtype=bool)
    colours = [colour_of(int(n)) for n in (np.arange(count) if one_class else labels)]
    scale = enlargement(image.shape[0], image.shape[1])
    canvas = enlarge(image, scale)
    dense = count > DENSE
    if masks is not None:
        width = 1 if dense else 2
        for k in order:
            _paint(canvas, masks[int(k)], masks.size, scale, colours[k], width, bool(regions[k]))
        if dense:
            return canvas
    names = ["" if one_class else class_names[label] for label in labels.tolist()]
    if scores is not None:
        names = [f"{n} {v:.2f}".strip() for n, v in zip(names, scores, strict=True)]
    return _annotate(canvas, boxes * scale, names if not dense else [], colours, order)


def enlargement(height: int, width: int) -> int:
    """Return the integer factor by which an image of this size is enlarged before drawing."""
    return max(1, -(-LONG_SIDE // max(height, width, LONG_SIDE // 8)))


def enlarge(image: ImageArray, scale: int) -> ImageArray:
    """Return a copy in which every pixel becomes a square of ``scale`` x ``scale`` pixels."""
    return image.repeat(scale, axis=0).repeat(scale, axis=1)


def side_by_side(
    truth: ImageArray, prediction: ImageArray, captions: tuple[str, str] = ("truth", "prediction")
) -> ImageArray:
    """Return two images next to each other under their captions."""
    return contact_sheet([truth, prediction], columns=2, captions=captions)


def contact_sheet(
    images: Sequence[ImageArray],
    columns: int,
    captions: Sequence[str] | None = None,
    gap: int = 8,
) -> ImageArray:
    """Return images on a white sheet, row by row.

    Columns have the width of the widest image, rows the height of their highest.

    Args:
        images: (H, W, 3) uint8 each, at least one; sizes may differ.
        columns: images per row, at least 1.
        captions: one line above each image, or None.
        gap: white pixels around each cell.

    Raises:
        ValueError: there are no images or columns, or the number of captions differs.
    """
    if not images or columns < 1:
        raise ValueError(f"cannot lay out {len(images)} images in {columns} columns")
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"{len(captions)} captions for {len(images)} images")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    font = font_of(CAPTION)
    strip = CAPTION + 8 if captions is not None else 0
    width = max(image.shape[1] for image in images)
    heights = [
        max(image.shape[0] for image in images[row * columns : (row + 1) * columns]) + strip
        for row in range(rows)
    ]
    tops = [gap + sum(heights[:row]) + row * gap for row in range(rows + 1)]
    sheet = Image.new("RGB", (columns * (width + gap) + gap, tops[-1]), "white")
    pen = ImageDraw.Draw(sheet)
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        x, y = gap + column * (width + gap), tops[row]
        if captions is not None:
            pen.text((x + 2, y + strip / 2), captions[number], fill="black", font=font, anchor="lm")
        sheet.paste(Image.fromarray(image), (x, y + strip))
    return np.asarray(sheet)


def _check(
    image: ImageArray,
    boxes: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int64],
    masks: RLEMasks | None,
) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
    if labels.shape != (len(boxes),):
        raise ValueError(f"{len(boxes)} boxes but labels of shape {labels.shape}")
    if masks is not None and len(masks) != len(boxes):
        raise ValueError(f"{len(boxes)} boxes but {len(masks)} masks")
    if masks is not None and tuple(masks.size) != image.shape[:2]:
        raise ValueError(f"masks of size {masks.size} on an image of size {image.shape[:2]}")


def _paint(
    canvas: ImageArray,
    runs: rle.Runs,
    size: rle.Size,
    scale: int,
    colour: Colour,
    width: int,
    hatched: bool,
) -> None:
    """Blend one mask into the canvas in place and draw its contour along the inner border."""
    x1, y1, x2, y2 = rle.bounding_box(runs, size)
    if x2 == x1:
        return
    mask = rle.decode(runs, size)[y1:y2, x1:x2].repeat(scale, axis=0).repeat(scale, axis=1)
    window = canvas[y1 * scale : y2 * scale, x1 * scale : x2 * scale]
    fill = mask
    if hatched:
        rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
        fill = mask & ((rows + columns) // 4 % 2 == 0)
    tint = np.array(colour, dtype=np.float32)
    window[fill] = np.round((1 - FILL) * window[fill] + FILL * tint).astype(np.uint8)
    inside = _eroded(mask, width)
    if width > 1:  # a dark line separates the contour from an object of the same colour
        window[inside & ~_eroded(inside, 1)] //= 2
    window[mask & ~inside] = colour


def _eroded(mask: npt.NDArray[np.bool_], times: int) -> npt.NDArray[np.bool_]:
    """Return the mask eroded ``times`` times with the 4-neighbourhood; outside counts as False."""
    for _ in range(times):
        padded = np.pad(mask, 1)
        mask = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask


def _annotate(
    canvas: ImageArray,
    boxes: npt.NDArray[np.float64],
    names: Sequence[str],
    colours: Sequence[Colour],
    order: npt.NDArray[np.int64],
) -> ImageArray:
    """Draw the boxes and the names (if any), highest score first, in pixels of the canvas."""
    drawing = Image.fromarray(canvas)
    pen = ImageDraw.Draw(drawing)
    for k in order:
        x1, y1, x2, y2 = np.round(boxes[k]).astype(int).tolist()
        if x2 > x1 and y2 > y1:
            pen.rectangle((x1, y1, x2 - 1, y2 - 1), outline=colours[k], width=1)
    if names:
        _write(pen, boxes, names, colours, order[::-1].tolist(), drawing.size)
    return np.asarray(drawing)


def _write(
    pen: ImageDraw.ImageDraw,
    boxes: npt.NDArray[np.float64],
    names: Sequence[str],
    colours: Sequence[Colour],
    order: Sequence[int],
    size: tuple[int, int],
) -> None:
    """Write each name at its box without overlap; a name without free space is left out."""
    font = font_of(14)
    taken: list[tuple[float, float, float, float]] = []
    for k in order:
        if not names[k]:
            continue
        left, top, right, bottom = pen.textbbox((0, 0), names[k], font=font)
        width, height = right - left + 6, bottom - top + 5
        x1, y1, _, y2 = boxes[k].tolist()
        x = min(max(x1, 0.0), size[0] - width)
        for y in (y1 - height, y1, y2 - height, y2):
            place = (x, y, x + width, y + height)
            inside = x >= 0 and y >= 0 and place[3] <= size[1]
            if inside and not any(_overlap(place, other) for other in taken):
                taken.append(place)
                pen.rectangle(place, fill=colours[k])
                pen.text((x + 3 - left, y + 2 - top), names[k], fill=_ink(colours[k]), font=font)
                break


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _ink(colour: Colour) -> str:
    """Return black or white, the one with more contrast to the colour (Rec. 601 luma)."""
    luma = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    return "black" if luma > 140 else "white"


def font_of(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font that Pillow brings, in a size in pixels."""
    return ImageFont.load_default(size=size)
