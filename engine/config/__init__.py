"""Reading and checking of configurations."""
