"""Multiple-instance models, one file or folder per method."""
