"""Order of the samples: keyed by seed and epoch, sharded, resumable."""
