"""Slide files for tests: TIFF, Aperio and DICOM, written from arrays (h, w, 3) of RGB."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

JPEG_QUALITY = 90
APERIO = (
    "Aperio Image Library v12.0.15\r\n{width}x{height} [0,0 {width}x{height}] ({tile}x{tile}) "
    "{codec} Q=90|AppMag = 40|MPP = {mpp:.4f}"
)


def reduced(image, factor):
    """Return the image at a whole factor less, by the mean of its pixels."""
    height, width = (side // factor for side in image.shape[:2])
    whole = image[: height * factor, : width * factor]
    return cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)


def noise(width, height, seed=0):
    """Return random pixels, none of which looks like its neighbour."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def clouds(width, height, seed=0):
    """Return smooth random colours, which JPEG keeps."""
    small = noise(max(2, width // 60), max(2, height // 60), seed)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def tiles(image: np.ndarray, side: int) -> Iterator[np.ndarray]:
    """Cut an image into square tiles, row by row; those at the border repeat its last pixels."""
    for y in range(0, image.shape[0], side):
        for x in range(0, image.shape[1], side):
            tile = image[y : y + side, x : x + side]
            beyond = ((0, side - tile.shape[0]), (0, side - tile.shape[1]), (0, 0))
            yield np.pad(tile, beyond, mode="edge")


def jpeg(tile, quality=JPEG_QUALITY):
    """Return a tile as JPEG."""
    return cv2.imencode(".jpg", tile[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def jpeg2000(tile):
    """Return a tile as a codestream of JPEG 2000, which slides have without the boxes of a file."""
    data = cv2.imencode(".jp2", tile[..., ::-1])[1].tobytes()
    return data[data.index(b"\xff\x4f\xff\x51") :]


CODECS = {
    None: {"compression": None, "photometric": "rgb"},
    "jpeg": {"compression": 7, "photometric": "ycbcr", "subsampling": (2, 2)},
    "jpeg2000": {"compression": 33005, "photometric": "rgb"},
    "jpeg2000 of others": {"compression": 34712, "photometric": "rgb"},  # OpenSlide refuses it
}


def write_tiff(
    path: Path,
    levels: Sequence[np.ndarray],
    codec: str | None = "jpeg",
    mpp: float | tuple[float, float] | None = 0.25,
    *,
    aperio: bool = False,
    tile: int = 256,
) -> Path:
    """Write a tiled TIFF with one page a level; those of Aperio tell the resolution in words."""
    import tifffile

    encode = {"jpeg": jpeg, None: np.ascontiguousarray}.get(codec, jpeg2000)
    x, y = mpp if isinstance(mpp, tuple) else (mpp, mpp)
    where = (
        {} if mpp is None else {"resolution": (1e4 / x, 1e4 / y), "resolutionunit": "CENTIMETER"}
    )
    height, width = levels[0].shape[:2]
    words = APERIO.format(
        width=width, height=height, tile=tile, mpp=x or 0,
        codec="JPEG/RGB" if codec == "jpeg" else "J2K/KDU",
    )  # fmt: skip
    with tifffile.TiffWriter(path) as tiff:
        for number, image in enumerate(levels):
            tiff.write(
                (encode(part) for part in tiles(image, tile)),
                shape=image.shape, dtype="uint8", tile=(tile, tile), metadata=None, software=False,
                subfiletype=int(number > 0), description=words if aperio else None,
                **CODECS[codec], **where,
            )  # fmt: skip
    return path


def tile_places(path, page=0):
    """Return (offset, bytes) of each tile of a page, for tests that break them."""
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        found = tiff.pages[page]
        return list(zip(found.dataoffsets, found.databytecounts, strict=True))


def overwrite(path, start, data):
    """Replace bytes of a file."""
    with path.open("r+b") as file:
        file.seek(start)
        file.write(data)


def write_dicom(folder: Path, levels: Sequence[np.ndarray], mpp: float = 0.25, tile: int = 256):
    """Write a DICOM series with one file a level and return the files."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGBaseline8Bit, VLWholeSlideMicroscopyImageStorage, generate_uid

    folder.mkdir(parents=True, exist_ok=True)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    files = []
    for number, image in enumerate(levels):
        spacing, shared, data, meta = Dataset(), Dataset(), Dataset(), FileMetaDataset()
        frames = [jpeg(part) for part in tiles(image, tile)]
        side = mpp / 1000 * levels[0].shape[1] / image.shape[1]
        spacing.PixelSpacing = [side, side]
        shared.PixelMeasuresSequence = [spacing]
        meta.TransferSyntaxUID = JPEGBaseline8Bit
        meta.MediaStorageSOPClassUID = data.SOPClassUID = VLWholeSlideMicroscopyImageStorage
        meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
        data.file_meta = meta
        data.StudyInstanceUID, data.SeriesInstanceUID = study, series
        data.FrameOfReferenceUID, data.Modality, data.InstanceNumber = frame, "SM", number + 1
        kind = ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"]
        data.ImageType = kind if number else ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
        data.DimensionOrganizationType = "TILED_FULL"
        data.TotalPixelMatrixRows, data.TotalPixelMatrixColumns = image.shape[:2]
        data.Rows = data.Columns = tile
        data.NumberOfFrames, data.SamplesPerPixel = len(frames), 3
        data.PhotometricInterpretation, data.PlanarConfiguration = "YBR_FULL_422", 0
        data.BitsAllocated = data.BitsStored = 8
        data.HighBit, data.PixelRepresentation = 7, 0
        data.SharedFunctionalGroupsSequence = [shared]
        data.PixelData = encapsulate(frames)
        data["PixelData"].is_undefined_length = True
        files.append(folder / f"level{number}.dcm")
        data.save_as(files[-1], enforce_file_format=True)
    return files


def wave(at):
    """Return a brightness that rises and falls by 3 a pixel, between 32 and 224 (float)."""
    return 32 + np.abs((np.asarray(at, float) * 3) % 384 - 192)


def ramp(width: int, height: int) -> np.ndarray:
    """Return an image whose colour tells the position: waves of x and y, and x as a whole."""
    image = np.empty((height, width, 3), np.uint8)
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    image[..., 0] = np.rint(wave(x))
    image[..., 1] = np.rint(wave(y))[:, None]
    image[..., 2] = np.rint(255 * x / width)
    return image


GLASS = (226, 225, 227)
INKS = {
    "black": (35, 35, 40),
    "blue": (40, 60, 170),
    "light blue": (110, 160, 215),
    "green": (30, 130, 70),
    "red": (200, 35, 45),
}


def densities(*parts):
    """Return the RGB on the glass of stains: parts of haematoxylin and of eosin."""
    stains = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.25]])
    return np.array(GLASS) * np.exp(-np.array(parts) @ stains)


def stained(inks=(), *, tissue=True, shadow=True, seed=0):
    """Return a slide of 4 x 3 mm at 4 um per pixel, with the places of its tissue and of its ink.

    A purple, a pink and a pale piece of tissue lie on grey noisy glass with a dark border; the
    strokes of pens pass beside the tissue and over it.

    Returns:
        image (750, 1000, 3), tissue (750, 1000) bool, ink (750, 1000) bool.
    """
    rng = np.random.default_rng(seed)
    height, width = 750, 1000
    image = np.ones((height, width, 3), np.float32) * GLASS
    inside, pen = np.zeros((2, height, width), np.uint8)
    texture = cv2.resize(rng.normal(1, 0.35, (height // 4, width // 4)), (width, height))
    texture += rng.normal(0, 0.3, texture.shape)
    pieces = {(300, 350): (210, 165, 0.5, 0.5), (725, 250): (150, 125, 0.1, 0.35)}
    pieces[675, 575] = (125, 90, 0.08, 0.12)
    for (x, y), (a, b, haematoxylin, eosin) in pieces.items() if tissue else ():
        piece = np.zeros_like(inside)
        cv2.ellipse(piece, (x, y), (a, b), 15, 0, 360, 1, -1)
        colour = densities(haematoxylin, eosin) / GLASS
        amount = np.clip(texture, 0.3, 2)[piece > 0]
        image[piece > 0] *= colour ** amount[:, None]
        inside |= piece
    for number, name in enumerate(inks):
        at = 60 + 165 * number
        stroke = np.zeros_like(pen)
        cv2.line(stroke, (at, 100), (at + 125, 700), 1, 30)
        image[stroke > 0] *= np.array(INKS[name]) / 235
        pen |= stroke
    if shadow:
        distance = np.minimum(np.arange(width), np.arange(width)[::-1])
        image *= np.clip(0.25 + distance / 55, 0.25, 1)[None, :, None]
    image = cv2.GaussianBlur(image, (0, 0), 0.7) + rng.normal(0, 3, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), inside.astype(bool), pen.astype(bool)
