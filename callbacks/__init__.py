"""Lightning callbacks; each usable from a config."""
