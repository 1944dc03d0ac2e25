"""Patches against outlined lesions."""

import numpy as np

from evaluation.wsi.lesion_patches import patch_auroc, patches_in_lesions

LESION = [[np.array([[100.0, 100.0], [200.0, 100.0], [200.0, 200.0], [100.0, 200.0]])]]


def test_the_centre_of_a_patch_counts():
    coords = np.array([[60, 60], [40, 60], [149, 149], [190, 120]])
    found = patches_in_lesions(coords, 100.0, LESION[:1])
    assert found.tolist() == [True, False, True, False]


def test_auroc_is_the_share_of_ordered_pairs():
    positive = np.array([True, False, True, False])
    assert patch_auroc(positive, np.array([3.0, 2.0, 1.0, 0.0])) == 0.75
    assert patch_auroc(np.zeros(3, dtype=bool), np.arange(3.0)) is None
    assert patch_auroc(np.ones(3, dtype=bool), np.arange(3.0)) is None
