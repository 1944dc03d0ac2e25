"""Names of the corruptions, in the order of the benchmark.

Hendrycks and Dietterich 2019 (arXiv 1903.12261); for detection Michaelis et al. 2019 (arXiv
1907.07484).
"""

CLEAN = "clean"
DOMAIN = "domain:"  # before the name of another data set, in the place of a corruption (A797)
SEVERITIES = (1, 2, 3, 4, 5)
LIBRARY = "imagecorruptions-imaug"  # of corruptions
GROUPS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
BENCHMARK = tuple(name for names in GROUPS.values() for name in names)
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")


def is_graded(corruption: str) -> bool:
    """Return whether a corruption has the severities 1 to 5; clean data and domains have 0.

    >>> is_graded("fog"), is_graded("clean"), is_graded("domain:night")
    (True, False, False)
    """
    return corruption != CLEAN and not corruption.startswith(DOMAIN)


def domain_of(corruption: str) -> str | None:
    """Return the name of a domain, or None for a corruption and for clean data.

    >>> domain_of("domain:night"), domain_of("fog")
    ('night', None)
    """
    return corruption.removeprefix(DOMAIN) if corruption.startswith(DOMAIN) else None
