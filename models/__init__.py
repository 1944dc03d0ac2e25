"""Networks: torch modules that know structures and nothing of training."""
