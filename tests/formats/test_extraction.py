"""The record of how a set of feature files was extracted."""

import json

import numpy as np
import pytest

from formats.extraction import Extraction, extraction_of, shared_extraction
from formats.features import read_header
from formats.slide_features import SlideAttributes, SlideFeatureWriter, read_attributes

SETTINGS = {"mpp": 0.5, "tissue": {"class_path": "t"}, "min_tissue": 0.25, "precision": "32-true"}
ENCODER = {"class_path": "e", "init_args": {"width": 8}}


def made(settings=SETTINGS, encoder=ENCODER):
    return Extraction("f" * 64, json.dumps(settings), json.dumps(encoder) if encoder else "")


def test_what_a_file_says_comes_back(tmp_path):
    attributes = SlideAttributes(
        0.25, 0.5, 8, 16, "e", "f" * 64, SETTINGS, "0", 1.0, "file", ENCODER
    )
    for name, config in {"new": ENCODER, "old": {}}.items():
        path = tmp_path / f"{name}.h5"
        writer = SlideFeatureWriter(path, 1, 3, attributes._replace(encoder_config=config))
        writer.add(np.zeros((1, 3), np.float16), np.zeros((1, 2), np.int64))
        writer.finish()
        assert read_attributes(path)[1].encoder_config == config
        found = shared_extraction([read_header(path).extraction])
        assert found["settings"] == SETTINGS
        assert found.get("encoder", {}) == config
        assert (found["weights_sha256"], found["differ"]) == ("f" * 64, [])
    assert shared_extraction(
        read_header(tmp_path / f"{name}.h5").extraction for name in ("old", "new")
    ) == {"encoder": ENCODER, "weights_sha256": "f" * 64, "settings": SETTINGS, "differ": []}


def test_settings_in_which_files_differ_are_named():
    others = [SETTINGS | {"min_tissue": 0.5}, SETTINGS | {"stain": {"class_path": "s"}}]
    found = shared_extraction([made(), *map(made, others)])
    assert found["differ"] == ["min_tissue", "stain"]
    assert found["settings"] == {n: SETTINGS[n] for n in ("mpp", "tissue", "precision")}


def test_augmented_versions_are_no_setting_of_a_prediction():
    """They are for training alone, and `features` are the same without them."""
    found = shared_extraction([made(SETTINGS | {"augmented": 4}), made()])
    assert (found["differ"], found["settings"]) == ([], SETTINGS)


def test_outlines_of_each_slide_are_one_setting():
    texts = [made(SETTINGS | {"tissue": {"outlines": text}}) for text in ("ab", "cd")]
    found = shared_extraction(texts)
    assert (found["differ"], found["settings"]["tissue"]) == ([], {"outlines": True})
    assert shared_extraction([*texts, made()])["differ"] == ["tissue"]


@pytest.mark.parametrize("files", [[], [None], [made(), None], [made()._replace(settings="3")]])
def test_files_that_do_not_say_it_have_no_record(files):
    assert shared_extraction(files) is None


def test_files_of_other_tools_do_not_say_it():
    assert extraction_of({"encoder": "uni", "settings": "{}"}) is None
