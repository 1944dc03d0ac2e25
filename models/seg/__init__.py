"""Instance segmentation models, one method a file or a folder."""
