"""Lightning callbacks; each usable from a config."""

from callbacks.attention_figure import AttentionFigure
from callbacks.bag_table import BagTable
from callbacks.class_table import ClassTable
from callbacks.confusion_figure import ConfusionFigure
from callbacks.curves import Curves
from callbacks.gradient_norm import GradientNorm
from callbacks.mask_gallery import MaskGallery
from callbacks.peak_memory import PeakMemory
from callbacks.prediction_writer import PredictionWriter
from callbacks.progress import ProgressBar
from callbacks.throughput import Throughput

__all__ = [
    "AttentionFigure",
    "BagTable",
    "ClassTable",
    "ConfusionFigure",
    "Curves",
    "GradientNorm",
    "MaskGallery",
    "PeakMemory",
    "PredictionWriter",
    "ProgressBar",
    "Throughput",
]
