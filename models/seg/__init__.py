"""Instance segmentation models, one file or folder per method."""
