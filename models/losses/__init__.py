"""Losses as pure functions: tensors in, tensors out."""

from models.losses.bag_classification import bag_classification_loss, mean_over_bags

__all__ = ["bag_classification_loss", "mean_over_bags"]
