"""Lightning datamodules, one data layout a file."""
