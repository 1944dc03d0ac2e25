"""Shifts of patches of slides at five severities."""

PATCH_SHIFTS = ("stain", "scanner", "defocus", "jpeg", "sharpening", "mpp")
