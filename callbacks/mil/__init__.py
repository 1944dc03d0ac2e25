"""Callbacks for bags."""
