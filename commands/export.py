"""`evaluate.py export`: the ONNX file of a checkpoint."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from commands._tables import show


def _add_export(export: argparse.ArgumentParser) -> None:
    export.add_argument("--ckpt", type=Path, required=True, help="checkpoint of YOLOSeg")
    export.add_argument("--out", dest="target", type=Path, required=True, help="ONNX file to write")
    export.add_argument(
        "--check", action="store_true", help="fail where onnxruntime is not there to compare with"
    )
    export.add_argument("--report", dest="out", type=Path, help="write the differences as JSON")


def run_export(args: argparse.Namespace) -> dict[str, Any]:
    """Write the ONNX file of a checkpoint."""
    from engine.deploy.onnx import TOLERANCES, export_checkpoint
    from evaluation.report.record import report
    from formats.files import file_hash

    target: Path = args.target
    done = export_checkpoint(args.ckpt, target, args.check)
    print(f"written: {target} ({done.size / 2**20:.1f} MiB)")
    if done.differences:
        lines = [
            (name, f"{v:.2g}", f"{TOLERANCES[name]:g}") for name, v in done.differences.items()
        ]
        title = f"largest difference between onnxruntime and PyTorch on {len(done.checked)} inputs"
        show(title, ["output", "difference", "allowed"], lines)
    else:
        print("note: outputs were not compared, because onnxruntime is not installed")
    extra: dict[str, Any] = {
        "sha256": file_hash(target),
        "metadata": done.metadata,
        "checked": done.checked,
    }
    return report(sys.argv, done.differences, files=[args.ckpt], **extra)
