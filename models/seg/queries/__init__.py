"""What models with object queries share: outputs, padding, targets, losses and masks."""
