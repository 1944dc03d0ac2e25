"""Networks: torch modules without any training logic."""
