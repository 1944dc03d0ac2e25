"""Lightning callbacks; each usable from a config."""

from callbacks.attention_figure import AttentionFigure
from callbacks.curves import Curves
from callbacks.mask_gallery import MaskGallery
from callbacks.prediction_writer import PredictionWriter
from callbacks.progress import ProgressBar

__all__ = ["AttentionFigure", "Curves", "MaskGallery", "PredictionWriter", "ProgressBar"]
