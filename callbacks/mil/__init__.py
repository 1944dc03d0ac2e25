"""Callbacks for multiple-instance learning."""
