"""`evaluate.py export`: the ONNX file of a checkpoint."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from commands._arguments import add_input, add_output
from commands._tables import show

SUMMARY = "ONNX file of a one-stage segmentation checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_input(parser, "--ckpt", required=True, help="checkpoint of YOLOSeg")
    add_output(parser, "--out", dest="target", required=True, help="ONNX file to write")
    parser.add_argument(
        "--check", action="store_true", help="fail if onnxruntime is missing for the comparison"
    )
    add_output(parser, "--report", dest="out", help="write the differences as JSON")


def run(args: argparse.Namespace) -> dict[str, Any]:
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
