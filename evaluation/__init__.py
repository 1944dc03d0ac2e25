"""Metrics and figures shared by training and the evaluation scripts."""

from evaluation.coco import CocoEvaluator, evaluate_results
from evaluation.coco_scores import CocoScores
from evaluation.draw import contact_sheet, draw_instances, side_by_side
from evaluation.operating_point import OperatingPoint, paired_bootstrap
from evaluation.plots import (
    plot_attention,
    plot_coco_pr,
    plot_confusion,
    plot_pr_roc,
    save_figure,
)
from evaluation.results import load_ground_truth, load_results, write_json

__all__ = [
    "CocoEvaluator",
    "CocoScores",
    "OperatingPoint",
    "contact_sheet",
    "draw_instances",
    "evaluate_results",
    "load_ground_truth",
    "load_results",
    "paired_bootstrap",
    "plot_attention",
    "plot_coco_pr",
    "plot_confusion",
    "plot_pr_roc",
    "save_figure",
    "side_by_side",
    "write_json",
]
