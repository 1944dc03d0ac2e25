"""Low-pass layers that keep the noise of dark images out of features."""
