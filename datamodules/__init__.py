"""Lightning datamodules, one file per data layout."""
