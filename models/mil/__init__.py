"""Multiple-instance models, one method a file or a folder."""
