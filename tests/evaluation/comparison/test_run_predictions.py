import zipfile

import pytest
import torch

from evaluation.comparison.run_predictions import find_predictions, training_bags


def run_folder(path, *names, config=None):
    (path / "predictions").mkdir(parents=True)
    for name in names:
        (path / "predictions" / name).write_text("")
    if config is not None:
        (path / "config.yaml").write_text(config)
    return path


def test_a_file_is_itself(tmp_path):
    assert find_predictions(tmp_path / "a.csv", "bags") == (tmp_path / "a.csv", None, "", None)
    for name in ("a.json", "a.csv"):
        (tmp_path / name).write_text("")
    with pytest.raises(ValueError, match=r"a.json: .*--annotations"):
        find_predictions(tmp_path / "a.json", "bags")
    with pytest.raises(ValueError, match=r"a.csv: .*without --annotations"):
        find_predictions(tmp_path / "a.csv", "images")


def test_folders_stand_for_the_predictions_in_them(tmp_path):
    run = run_folder(tmp_path / "name" / "version_0", "bags.csv", "test.json")
    for folder in (tmp_path / "name", run, run / "predictions"):
        assert find_predictions(folder, "bags").file == run / "predictions" / "bags.csv"
        assert find_predictions(folder, "images").file == run / "predictions" / "test.json"
    run_folder(tmp_path / "name" / "version_1")  # without predictions: a training
    assert find_predictions(tmp_path / "name", "bags").file == run / "predictions" / "bags.csv"


def test_several_and_none_are_refused(tmp_path):
    for version in ("version_0", "version_1"):
        run_folder(tmp_path / "name" / version, "bags.csv")
    with pytest.raises(ValueError, match=r"several.*version_0/.*version_1/"):
        find_predictions(tmp_path / "name", "bags")
    both = run_folder(tmp_path / "both", "test.json", "predict.json")
    with pytest.raises(ValueError, match=r"several.*test.json.*predict.json"):
        find_predictions(both, "images")
    trained = run_folder(tmp_path / "trained")
    with pytest.raises(
        ValueError, match=r"has no predictions/bags.csv; write it by `python train.py test"
    ):
        find_predictions(trained, "bags")
    with pytest.raises(ValueError, match="has predictions of images; .*--annotations"):
        find_predictions(both, "bags")
    with pytest.raises(ValueError, match="has predictions of bags"):
        find_predictions(tmp_path / "name", "images")


def test_the_threshold_is_that_of_the_checkpoint_that_was_tested(tmp_path):
    checkpoint = tmp_path / "best.ckpt"
    torch.save({"segmil": {"facts": {"threshold": 0.25}}}, checkpoint)

    def threshold(number, config):
        run = run_folder(tmp_path / str(number), "bags.csv", config=config)
        return find_predictions(run, "bags")[1:3]

    named = f"ckpt_path: {checkpoint}\n"
    assert threshold(0, f"{named}model:\n  init_args: {{threshold: youden}}\n") == (0.25, "")
    assert threshold(1, f"{named}model:\n  init_args: {{}}\n") == (0.25, "")
    # a number in the recipe wins over the checkpoint, as it does in the test itself
    assert threshold(2, f"{named}model:\n  init_args: {{threshold: 0.75}}\n") == (0.75, "")
    gone = f"ckpt_path: {tmp_path / 'gone.ckpt'}\nmodel:\n  init_args: {{}}\n"
    for number, config, words in (
        (3, gone, "gone.ckpt: the threshold cannot be read"),
        (4, "model:\n  init_args: {}\nckpt_path: null\n", "neither a threshold nor a checkpoint"),
        (5, "model: [", "no config.yaml with"),
        (6, None, "no config.yaml with"),
    ):
        value, note = threshold(number, config)
        assert value is None
        assert words in note
    with zipfile.ZipFile(checkpoint) as old, zipfile.ZipFile(tmp_path / "packed", "w", 8) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    (tmp_path / "packed").replace(checkpoint)
    assert threshold(8, f"{named}model:\n  init_args: {{}}\n")[0] is None
    checkpoint.write_bytes(b"broken")
    assert threshold(7, f"{named}model:\n  init_args: {{}}\n")[0] is None


def test_the_training_bags_are_those_of_the_checkpoint_that_was_tested(tmp_path):
    checkpoint = tmp_path / "best.ckpt"
    facts = {"threshold": 0.5, "training_bags": {"time": [3, 1.5], "event": [True, False]}}
    torch.save({"segmil": {"facts": facts}}, checkpoint)

    def bags(number, config):
        run = run_folder(tmp_path / str(number), "bags.csv", config=config)
        return training_bags(find_predictions(run, "bags"))

    named = f"ckpt_path: {checkpoint}\nmodel:\n  init_args: "
    for number, given in enumerate(("{}", "{threshold: 0.75}")):
        found = bags(number, named + given)
        assert (found.time.tolist(), found.event.tolist()) == ([3, 1.5], [True, False])
    assert bags(2, "model: {init_args: {}}") is None
    assert training_bags(find_predictions(tmp_path / "a.csv", "bags")) is None
    torch.save({"segmil": {"facts": {"threshold": 0.5}}}, checkpoint)
    assert bags(3, named + "{}") is None
    checkpoint.write_bytes(b"broken")
    assert bags(4, named + "{}") is None
