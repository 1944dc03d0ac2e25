"""The memory that finding tissue takes does not grow with the slide."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.slides import CODECS, jpeg

pytest.importorskip("openslide")
PEAK = """
import sys
from pathlib import Path
from datamodules.wsi.tissue import OtsuTissue
from formats.slides.pyramid import open_slide
with open_slide(Path(sys.argv[1])) as slide:
    assert OtsuTissue()(slide, 0.25).mask.all()
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_a_slide_without_low_levels_is_read_in_blocks(tmp_path):
    import tifffile

    tile = jpeg(np.full((256, 256, 3), (190, 90, 160), np.uint8))
    peaks = []  # MiB
    for side in (2048, 8192):  # 192 MiB of RGB
        path = tmp_path / f"{side}.tiff"
        tifffile.imwrite(
            path, iter([tile] * (side // 256) ** 2), shape=(side, side, 3), dtype="uint8",
            tile=(256, 256), metadata=None, **CODECS["jpeg"],
        )  # fmt: skip
        command = [sys.executable, "-c", PEAK, str(path)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] - peaks[0] < 100
