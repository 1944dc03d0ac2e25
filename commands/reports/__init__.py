"""Parts of `evaluate.py report`."""
