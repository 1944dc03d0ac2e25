"""Metrics and figures shared by training and the evaluation scripts."""

from evaluation.bootstrap import bootstrap_intervals
from evaluation.coco import CocoEvaluator, evaluate_results
from evaluation.coco_bootstrap import compare_pictures
from evaluation.coco_scores import CocoScores
from evaluation.cross_validation import summarise_folds
from evaluation.delong import delong_test
from evaluation.draw import contact_sheet, draw_instances, side_by_side
from evaluation.mil import (
    confusion_matrix,
    evaluate_bags,
    instance_auroc,
    pr_curve,
    roc_curve,
    witness_auroc,
    youden_threshold,
)
from evaluation.mil_adapters import import_model
from evaluation.mil_assumption_training import AssumptionSettings
from evaluation.mil_assumptions import check_assumptions
from evaluation.mil_structure import check_structure
from evaluation.operating_point import OperatingPoint, paired_bootstrap
from evaluation.paired import compare_bags
from evaluation.plots import (
    plot_attention,
    plot_coco_pr,
    plot_confusion,
    plot_pr_roc,
    save_figure,
)
from evaluation.results import load_ground_truth, load_results, write_json

__all__ = [
    "AssumptionSettings",
    "CocoEvaluator",
    "CocoScores",
    "OperatingPoint",
    "bootstrap_intervals",
    "check_assumptions",
    "check_structure",
    "compare_bags",
    "compare_pictures",
    "confusion_matrix",
    "contact_sheet",
    "delong_test",
    "draw_instances",
    "evaluate_bags",
    "evaluate_results",
    "import_model",
    "instance_auroc",
    "load_ground_truth",
    "load_results",
    "paired_bootstrap",
    "plot_attention",
    "plot_coco_pr",
    "plot_confusion",
    "plot_pr_roc",
    "pr_curve",
    "roc_curve",
    "save_figure",
    "side_by_side",
    "summarise_folds",
    "witness_auroc",
    "write_json",
    "youden_threshold",
]
