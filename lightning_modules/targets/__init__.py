"""Training on bags whose target is a time, values or a grade."""
