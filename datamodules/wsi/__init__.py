"""Patches of whole-slide images: tissue and grid."""
