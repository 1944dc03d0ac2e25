"""Parts of `evaluate.py mil-cv`: external sets and nested cross-validation."""
