"""Cross-validation of recipes on bags."""
