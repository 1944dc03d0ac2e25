"""Picture transforms that keep masks and boxes aligned."""
