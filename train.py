"""Train, validate, test or predict from a configuration or a checkpoint; see USAGE."""

from __future__ import annotations

import sys

USAGE = """\
usage: python train.py COMMAND --config RECIPE.yaml [--config OVERLAY.yaml ...] [--key VALUE ...]
       (or segmil-train COMMAND ..., in any folder, where segmil is installed)

commands
  fit        train; writes runs/<name>/version_<k>/{config.yaml,checkpoints,metrics.csv,pictures}
  validate   score the validation split     (add --ckpt_path FILE)
  test       score the test split           (add --ckpt_path FILE)
  predict    --ckpt_path FILE [--data PATH] write predictions; needs no configuration.
             PATH: a folder of images, one image, an npz of bags, a CSV of slides; without
             it, the checkpoint's test images or all its bags. --data.NAME VALUE changes one
             data argument.
             For images: --score X, the lowest score in predict_coco.json and in the
             overlays (default 0.5); --overlays N, all or none (default all).
             --config configs/wsi/extract_features.yaml --data.slides DIR --data.features OUT
             writes features of whole slides; the same command goes on after it was stopped.
             --ckpt_path FILE --data SLIDES.csv --data.slides DIR predicts whole slides, whose
             features are extracted as those of the training were.

examples
  python train.py fit --config configs/quickstart/mask_rcnn.yaml
  python train.py fit --config configs/seg/mask_rcnn_nuclei.yaml --data.root DIR
  python train.py fit --config configs/mil/abmil.yaml --data.file FILE.npz
  python train.py fit --config configs/mil/abmil_features.yaml --data.table SLIDES.csv
  python train.py predict --ckpt_path runs/mask_rcnn/version_0/checkpoints/best.ckpt --data DIR

`python train.py fit --help` lists every argument; `--config configs/_base/wandb.yaml` adds W&B.
Exit code 2 means wrong input; the message gives the mistake, its place and the remedy. SIGTERM
(143) and Ctrl-C (130) end a training after its current step and print how to resume it.
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0 on success, 2 on wrong input.

    A signal that ended it gives 128 plus its number: 143 for SIGTERM, 130 for Ctrl-C.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        sys.stdout.write(USAGE)
        return 0
    debug = "--debug" in args
    args = [a for a in args if a != "--debug"]
    from engine.config.environment import environment_fault

    if fault := environment_fault():
        sys.stderr.write(f"error: {fault}\n")
        return 2
    from jsonargparse import ArgumentError
    from pytorch_lightning.utilities.exceptions import MisconfigurationException

    from engine.config.errors import report_once, user_message
    from engine.config.installed import find_recipes
    from engine.training.command_line import run  # heavy imports, after --help
    from engine.training.console import calm_console, print_where

    args = find_recipes(args)
    try:
        with calm_console(trains=args[0] == "fit"):
            command = run(args)
            print_where(command)
            command.report_failed()
    except (ValueError, OSError, ArgumentError, ImportError, MisconfigurationException) as error:
        if debug:
            raise
        report_once(f"error: {user_message(error, args)}\n")
        return 2
    except SystemExit as stop:  # jsonargparse has printed its message
        return int(stop.code or 0)
    except KeyboardInterrupt:
        sys.stderr.write("stopped by SIGINT\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
