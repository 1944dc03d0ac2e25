"""Artifacts: what they refer to, what they were made from, and how online runs use them."""

import base64
import hashlib
import json
from types import SimpleNamespace

import pytest

from loggers import wandb_artifacts
from loggers.wandb_artifacts import (
    ArtifactSpec,
    Made,
    dataset_spec,
    log_artifact,
    model_spec,
    recorded,
    use_artifact,
    write_record,
)


class Run:
    """A run that keeps what it gets."""

    def __init__(self, offline=True):
        self.offline = offline
        self.logged, self.used = [], []

    def log_artifact(self, artifact, aliases):
        self.logged.append((artifact, aliases))

    def use_artifact(self, artifact, aliases):
        if self.offline:
            raise TypeError("Cannot use artifact when in offline mode.")
        self.used.append((artifact, aliases))


@pytest.fixture
def data(tmp_path):
    """A folder of images beside annotations, with names that a URI has to escape."""
    folder = tmp_path / "set #1"
    (folder / "images" / "a b").mkdir(parents=True)
    (folder / "truth.json").write_text("{}")
    (folder / "images" / "one.png").write_bytes(b"one")
    (folder / "images" / "a b" / "50%.png").write_bytes(b"fifty")
    return folder


def entries(artifact):
    return {path: (e.ref, e.digest, e.local_path) for path, e in artifact.manifest.entries.items()}


def md5(content):
    return base64.b64encode(hashlib.md5(content).digest()).decode()


def test_a_data_set_is_referred_to_and_nothing_of_it_is_copied(data, offline_wandb):
    run = Run()
    sources = {"annotations": data / "truth.json", "images": data / "images"}
    made = log_artifact(run, dataset_spec("abc", sources, {"class_path": "X"}))
    ((artifact, aliases),) = run.logged
    assert (artifact.type, artifact.name.partition(":")[0], aliases) == (
        "dataset", "dataset-abc", ["latest"]
    )  # fmt: skip
    found = entries(artifact)
    ref, digest, _ = found.pop("dataset.json")
    assert ref is None
    assert digest == md5(b'{"data_hash": "abc"}')
    assert found == {
        "annotations/truth.json": ((data / "truth.json").as_uri(), md5(b"{}"), None),
        "images/one.png": ((data / "images/one.png").as_uri(), md5(b"one"), None),
        "images/a b/50%.png": ((data / "images/a b/50%.png").as_uri(), md5(b"fifty"), None),
    }
    # W&B's digest of an artifact: of the sorted names and digests of its files.
    lines = {"dataset.json": digest} | {name: one[1] for name, one in found.items()}
    text = "".join(f"{name}:{lines[name]}\n" for name in sorted(lines))
    assert made.digest == hashlib.md5(b"wandb-artifact-manifest-v1\n" + text.encode()).hexdigest()
    assert artifact.metadata["inputs"] == []
    assert artifact.metadata["class_path"] == "X"


@pytest.mark.parametrize("limit", ["CHECKED_FILES", "CHECKED_BYTES"])
def test_of_large_data_annotations_alone_are_checked(data, limit, monkeypatch):
    monkeypatch.setattr(wandb_artifacts, limit, 1)
    sources = {"annotations": data / "truth.json", "images": data / "images"}
    spec = dataset_spec("abc", sources, {})
    assert list(spec.files) == ["annotations/truth.json"]
    assert spec.facts["unchecked"] == [str(data / "images")]
    assert spec.identity == {"data_hash": "abc"}


def test_a_model_has_the_same_digest_copied_or_not(tmp_path, offline_wandb):
    checkpoint = tmp_path / "best.ckpt"
    checkpoint.write_bytes(b"weights")
    run, data = Run(), Made("dataset", "dataset-abc", "0")
    made = [
        log_artifact(run, model_spec(checkpoint, "r1", copied=copied), [data])
        for copied in (False, True)
    ]
    assert made[0] == made[1]
    assert made[0][:2] == ("model", "model-r1")
    (reference, aliases), (copy, _) = run.logged
    assert aliases == ["latest", "best"]
    assert entries(reference)["best.ckpt"][0] == checkpoint.as_uri()
    assert entries(copy)["best.ckpt"][0] is None
    expected = {"type": "dataset", "name": "dataset-abc", "digest": "0"}
    assert reference.metadata["inputs"] == [expected]
    assert model_spec(checkpoint, None).name == (
        f"model-{hashlib.sha256(b'weights').hexdigest()[:16]}"
    )


def test_inputs_are_used_online_and_logged_offline(tmp_path, offline_wandb):
    file = tmp_path / "p.json"
    file.write_text("[]")
    spec = ArtifactSpec("predictions", "predictions-1", {"p.json": file}, copied=True)
    online, offline = Run(offline=False), Run()
    assert use_artifact(online, spec) == use_artifact(offline, spec)
    assert (len(online.used), len(online.logged)) == (1, 0)
    assert (len(offline.used), len(offline.logged)) == (0, 1)


def test_a_run_folder_remembers_what_its_model_was_made_from(tmp_path):
    data = Made("dataset", "dataset-abc", "0")
    checkpoint = tmp_path / "checkpoints" / "best.ckpt"
    assert recorded(checkpoint) == {}
    write_record(tmp_path, {"model-1": [data]})
    assert recorded(checkpoint) == {"model-1": [data]}
    assert (
        json.loads((tmp_path / "wandb_artifacts.json").read_text())["model-1"][0]["digest"] == "0"
    )
    write_record(tmp_path, {})  # nothing was made: what is known stays
    assert recorded(checkpoint) == {"model-1": [data]}


def test_a_run_that_made_nothing_writes_no_record(tmp_path):
    write_record(tmp_path, {})
    assert not list(tmp_path.iterdir())


def test_results_of_a_test_are_made_from_data_and_model(tmp_path, offline_wandb):
    from loggers.wandb_results import Results, log_results

    folder = tmp_path / "test" / "version_0"
    (folder / "predictions").mkdir(parents=True)
    (folder / "predictions" / "predict_coco.json").write_text("[]")
    (folder / "predictions" / "overlay.png").write_bytes(b"")
    checkpoint = tmp_path / "x" / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"weights")
    (tmp_path / "x" / "wandb_run_id").write_text("r1\n")
    run = Run()
    run.id = "r2"
    log_results(run, Results(folder, dataset_spec("abc", {}, {}), None, "reference", checkpoint))
    made = {artifact.type: artifact for artifact, _ in run.logged}
    assert list(made) == ["dataset", "model", "predictions"]
    inputs = made["predictions"].metadata["inputs"]
    assert [one["name"] for one in inputs] == ["dataset-abc", "model-r1"]
    assert [one["digest"] for one in inputs] == [made["dataset"].digest, made["model"].digest]
    assert list(entries(made["predictions"])) == ["predict_coco.json"]


@pytest.mark.parametrize(
    ("best", "wanted", "names"),
    [
        (True, "reference", ["best.ckpt"]),
        (False, "reference", ["last.ckpt"]),
        (True, "last", ["last.ckpt"]),
        (True, "both", ["last.ckpt", "best.ckpt"]),
        (False, "best", []),
        (True, "none", []),
    ],
)
def test_which_checkpoints_are_logged(best, wanted, names, tmp_path, offline_wandb):
    from loggers.wandb_results import Results, log_results

    for name in ["last"] + ["best"] * best:
        (tmp_path / f"{name}.ckpt").write_text(name)
    callback = SimpleNamespace(
        last_path=tmp_path / "last.ckpt",
        best_model_path=str(tmp_path / "best.ckpt") if best else "",
        best_model_score=0.5 if best else None,
        monitor="val/segm_map",
    )
    run = Run()
    run.id = "r1"
    log_results(run, Results(tmp_path, None, callback, wanted, None))
    found = [entries(artifact) for artifact, _ in run.logged]
    assert [name for one in found for name in one] == names
    copied = {ref is None for one in found for ref, _, _ in one.values()}
    assert copied <= {wanted != "reference"}
