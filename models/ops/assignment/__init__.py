"""Assignment of objects to predictions."""
