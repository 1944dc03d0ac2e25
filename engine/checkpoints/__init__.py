"""Reading, writing and continuing from checkpoints."""
