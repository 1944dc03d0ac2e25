"""Cross-validation of slides, whose features lie in files."""

import numpy as np
import pytest

from datamodules.mil import feature_set
from datamodules.mil.feature_set import FeatureSet
from engine.cross_validation.run import BagInputs, FoldFiles, cross_validate
from engine.deploy.bags import predict_bags


def slides_recipe(config, **arguments):
    kind = "datamodules.mil.features.FeatureBagsDataModule"
    data = {"class_path": kind, "init_args": {"batch_size": 4} | arguments}
    return config(("data", data), ("trainer", {"max_steps": 12}))


def npz_of(table, path):
    """The slides of a table as an npz file of bags, in single precision."""
    bags = FeatureSet(table)
    parts = [bags.bag(b).features.numpy() for b in range(len(bags))]
    np.savez(
        path, X=np.concatenate(parts), bag_index=np.repeat(np.arange(len(bags)), bags.sizes),
        y=bags.labels, groups=np.array(bags.groups),
    )  # fmt: skip
    return path


@pytest.mark.slow
def test_slides_are_validated_as_the_same_bags_of_an_npz_file(config, write_slides, tmp_path):
    table = write_slides(24)
    recipe = slides_recipe(config)
    slides = cross_validate(recipe, table, num_folds=3, repeats=2, workers=2)
    raw = config(
        ("data.init_args", {"batch_size": 4, "standardise": False}), ("trainer", {"max_steps": 12})
    )
    bags = cross_validate(raw, npz_of(table, tmp_path / "b.npz"), num_folds=3, repeats=2, workers=2)
    assert np.array_equal(slides.folds, bags.folds)
    np.testing.assert_allclose(slides.probabilities, bags.probabilities, rtol=0, atol=1e-6)
    assert slides.protocol == "6 folds in 2 repeats (stratified, seed 0, by patient), 12 steps each"
    held = [{f"p{b // 4}_{b % 2}" for b in np.flatnonzero(slides.folds[0] == k)} for k in range(3)]
    assert sum(map(len, held)) == len(set.union(*held)) == 12


@pytest.mark.slow
def test_folds_share_the_features_in_memory(config, write_slides, monkeypatch, tmp_path):
    table = write_slides(12, size=9)
    real, notes = feature_set.read_features, tmp_path / "read.txt"

    def noted(path, *arguments):
        with notes.open("a") as stream:
            stream.write(f"{path}\n")
        return real(path, *arguments)

    monkeypatch.setattr(feature_set, "read_features", noted)
    scores = {}
    for gib in (0.0, 0.01):
        notes.unlink(missing_ok=True)
        recipe = slides_recipe(config, cache_gib=gib, max_instances=5)
        found = cross_validate(recipe, table, num_folds=3, repeats=1, workers=2)
        scores[gib] = found.probabilities, len(notes.read_text().splitlines())
    assert np.array_equal(scores[0.0][0], scores[0.01][0])
    # Once to be checked, then once for each of two processes at most.
    assert scores[0.01][1] <= 3 * 12 < scores[0.0][1] / 3


@pytest.mark.slow
def test_a_recipe_of_slides_is_followed(config, write_slides):
    """Each setting that changes training changes the result, and bags can be patients."""
    table = write_slides(24, size=12, label=[0] * 16 + [1] * 8, patient_id=None)

    def scores(**arguments):
        path = slides_recipe(config, **arguments)
        return cross_validate(path, table, num_folds=2, repeats=1, workers=1).probabilities

    plain = scores()
    for change in (
        {"max_instances": 5},
        {"chunk_instances": 5},
        {"sampler": "class_balanced"},
        {"sampler": "weighted", "class_weights": [1.0, 5.0]},
        {"token_budget": 30},
        {"batch_size": 3},
    ):
        assert not np.array_equal(scores(**change), plain), change
    assert np.array_equal(scores(num_workers=2, seed=5, cache_gib=0.01), plain)
    patients = write_slides(24, name="patients")
    path = slides_recipe(config, bag="patient")
    assert cross_validate(path, patients, num_folds=2, repeats=1, workers=1).folds.shape == (1, 12)


def test_patients_whose_slides_differ(config, write_slides, tmp_path):
    patients = [f"p{k // 2}" for k in range(16)]
    labels = [0, 1, 0, 0] * 4  # half of the patients have a positive slide
    table = write_slides(16, patient_id=patients, label=labels)
    with pytest.raises(ValueError, match="slides with labels 0 .s0., 1 .s1."):
        cross_validate(slides_recipe(config, bag="patient"), table, 2, 1, workers=1)
    recipe = slides_recipe(config, bag="patient", patient_label="max")
    files = FoldFiles(checkpoints=tmp_path / "folds")
    found = cross_validate(recipe, table, 2, 1, workers=1, keep=files)
    assert found.predictions.labels.tolist() == [1, 0] * 4
    assert sorted(found.folds[0][::2]) == sorted(found.folds[0][1::2]) == [0, 0, 1, 1]
    again = predict_bags(tmp_path / "folds/repeat0_fold1.ckpt", table)  # labels as in training
    test = np.flatnonzero(found.folds[0] == 1)
    assert again.scores.bag_ids == tuple(f"p{k}" for k in test)
    assert again.scores.labels.tolist() == found.predictions.labels[test].tolist()
    np.testing.assert_allclose(again.scores.probabilities, found.probabilities[0, test], atol=1e-6)
    other = write_slides(16, name="other", patient_id=patients, label=[0, 0, 0, 1] * 4)
    checkpoint = tmp_path / "folds/repeat0_fold1.ckpt"
    whole = predict_bags(checkpoint, other, allow_overlap=True).scores
    assert whole.labels.tolist() == [0, 1] * 4
    with pytest.raises(ValueError, match="patient_label max has no effect on bags of slides"):
        cross_validate(slides_recipe(config, patient_label="max"), table, 2, 1, workers=1)


def test_notes_on_slides(config, write_slides, tmp_path):
    table = write_slides(12, split=["train", "test"] * 6, patient_id=None)
    result = cross_validate(config(("data.init_args.clip", 3.0)), table, 2, 1, workers=1)
    assert (
        "column split is not used" in result.notes[0]
        and "slides stay as they are" in result.notes[1]
    )
    labelled = npz_of(write_slides(12, name="b"), tmp_path / "b.npz")
    cut = slides_recipe(config, max_instances=3)
    assert "bags of the file stay whole" in cross_validate(cut, labelled, 2, 1, workers=1).notes[0]


def test_faulty_bags_stop_it_or_are_left_out(config, write_slides):
    table = write_slides(12)
    (table.parent / "features" / "s3.safetensors").unlink()
    recipe = slides_recipe(config)
    with pytest.raises(ValueError, match="slide s3: no feature file"):
        cross_validate(recipe, table, 2, 1, workers=1)
    result = cross_validate(recipe, BagInputs(table, bad_data="skip"), 2, 1, workers=1)
    assert result.folds.shape == (1, 11) and [p.item for p in result.problems] == ["s3"]
    own = slides_recipe(config, bad_data="skip")
    assert cross_validate(own, table, 2, 1, workers=1).folds.shape == (1, 11)
    unlabelled = write_slides(12, name="u", label=None)
    named = slides_recipe(config, class_names=["a", "b"])
    with pytest.raises(ValueError, match="without labels cannot be cross-validated"):
        cross_validate(named, unlabelled, 2, 1, workers=1)


def test_where_features_lie(config, write_slides):
    table = write_slides(12)
    elsewhere = table.parent.parent / "elsewhere"
    (table.parent / "features").rename(elsewhere)
    with pytest.raises(ValueError, match="features: no such folder"):
        cross_validate(slides_recipe(config), table, 2, 1, workers=1)
    given = cross_validate(slides_recipe(config), BagInputs(table, elsewhere), 2, 1, workers=1)
    named = slides_recipe(config, features=str(elsewhere))
    again = cross_validate(named, table, 2, 1, workers=1)
    assert np.array_equal(given.probabilities, again.probabilities)
