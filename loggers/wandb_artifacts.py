"""Artifacts of W&B: data, models, predictions and reports, each with what it was made from.

Every artifact has ``metadata.inputs``, a list of ``{type, name, digest}``, so that its origin is
known without a server. Online, inputs are also marked as used by the run (``use_artifact``), which
W&B refuses offline.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from formats.files import file_hash, write_json

CHECKED_BYTES = 1 << 30  # of a data set's images or features that are read for checksums (A845)
CHECKED_FILES = 10_000
TABLES = {".json", ".csv", ".npz", ".yaml", ".yml"}  # annotations and tables, always checked
_OWN_FILE = "dataset.json"
_RECORD = "wandb_artifacts.json"  # in a run folder: what its artifacts were made from


class Made(NamedTuple):
    """An artifact that was logged, as an element of ``metadata.inputs``.

    Attributes:
        type: ``dataset``, ``model``, ``predictions`` or ``report``.
        name: without a version.
        digest: checksum of its content, as W&B computes it.
    """

    type: str
    name: str
    digest: str


@dataclass(frozen=True)
class ArtifactSpec:
    """What an artifact holds.

    Attributes:
        type: see `Made`.
        name: without a version.
        files: name within the artifact -> file.
        copied: whether the files are copied and uploaded; otherwise they are referred to by place
            and checksum.
        facts: metadata.
        identity: content of a small file that is part of a data set, for data without files.
        aliases: names of this version in addition to ``latest``.
    """

    type: Literal["dataset", "model", "predictions", "report"]
    name: str
    files: Mapping[str, Path]
    copied: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)
    identity: Mapping[str, Any] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()


def dataset_spec(
    data_hash: str, sources: Mapping[str, Path], facts: Mapping[str, Any]
) -> ArtifactSpec:
    """Return the artifact of a data set, of which nothing is copied.

    Annotations and tables are referred to by their checksum, and so are other files up to
    `CHECKED_BYTES` and `CHECKED_FILES`. Beyond, they are known by the hash of the data and named as
    ``unchecked`` in the metadata (A845).

    Args:
        data_hash: hash of everything that determines the samples.
        sources: files and folders by name; empty for data that are generated.
        facts: further metadata.
    """
    files: dict[str, Path] = {}
    unchecked = []
    for name, source in sources.items():
        found = dict(_files(name, source))
        tables = {k: path for k, path in found.items() if path.suffix.lower() in TABLES}
        others = {k: path for k, path in found.items() if k not in tables}
        size = sum(path.stat().st_size for path in others.values())
        if len(others) > CHECKED_FILES or size > CHECKED_BYTES:
            unchecked.append(str(source))
            others = {}
        files |= tables | others
    more = {"unchecked": unchecked} if unchecked else {}
    places = {name: str(source) for name, source in sources.items()}
    return ArtifactSpec(
        "dataset",
        f"dataset-{data_hash}",
        files,
        facts={**facts, "data_hash": data_hash, "sources": places, **more},
        identity={"data_hash": data_hash},
    )


def model_spec(
    checkpoint: Path,
    run_id: str | None,
    *,
    copied: bool = False,
    alias: str | None = None,
    facts: Mapping[str, Any] | None = None,
) -> ArtifactSpec:
    """Return the artifact of a checkpoint: ``model-<id of its training>``.

    Args:
        checkpoint: the file.
        run_id: id of the W&B run of its training; None names the artifact by the file's hash.
        copied: see `ArtifactSpec`.
        alias: ``best`` or ``last``; default: that of the file's name, if it has one.
        facts: further metadata.
    """
    stem = checkpoint.stem if alias is None else alias
    return ArtifactSpec(
        "model",
        f"model-{run_id or file_hash(checkpoint)}",
        {f"{stem}.ckpt": checkpoint},
        copied=copied,
        facts={"file": checkpoint.name, **(facts or {})},
        aliases=(stem,) if stem in ("best", "last") else (),
    )


def log_artifact(run: Any, spec: ArtifactSpec, inputs: Sequence[Made] = ()) -> Made:
    """Log an artifact as a result of a run.

    Args:
        run: the W&B run.
        spec: the artifact.
        inputs: what it was made from.
    """
    artifact = _build(spec, inputs)
    run.log_artifact(artifact, aliases=["latest", *spec.aliases])
    return Made(spec.type, spec.name, str(artifact.digest))


def use_artifact(run: Any, spec: ArtifactSpec, inputs: Sequence[Made] = ()) -> Made:
    """Mark an artifact as an input of a run; offline, where W&B has no inputs, log it.

    A version that the server does not have yet is created.
    """
    if run.offline:
        return log_artifact(run, spec, inputs)
    artifact = _build(spec, inputs)
    digest = str(artifact.digest)
    run.use_artifact(artifact, aliases=["latest", *spec.aliases])
    return Made(spec.type, spec.name, digest)


def write_record(run_dir: Path, origins: Mapping[str, Sequence[Made]]) -> None:
    """Write what the artifacts of a run were made from, for evaluations that use them."""
    if origins:
        content = {name: [made._asdict() for made in inputs] for name, inputs in origins.items()}
        write_json(run_dir / _RECORD, content, indent=1)


def recorded(checkpoint: Path) -> dict[str, list[Made]]:
    """Return what the artifacts of a checkpoint's run were made from, by name; empty if unknown."""
    file = checkpoint.resolve().parent.parent / _RECORD
    content = json.loads(file.read_text()) if file.is_file() else {}
    return {name: [Made(**made) for made in inputs] for name, inputs in content.items()}


def _build(spec: ArtifactSpec, inputs: Sequence[Made]) -> Any:
    import wandb

    metadata = {**spec.facts, "inputs": [made._asdict() for made in inputs]}
    artifact = wandb.Artifact(spec.name, type=spec.type, metadata=metadata)
    if spec.identity:
        with artifact.new_file(_OWN_FILE, mode="w") as stream:
            json.dump(spec.identity, stream, sort_keys=True)
    for name, path in spec.files.items():
        if spec.copied:
            artifact.add_file(str(path), name=name)
        else:
            artifact.add_reference(path.resolve().as_uri(), name=name)
    return artifact


def _files(name: str, source: Path) -> Iterator[tuple[str, Path]]:
    """Yield name and place of a file, or of the files of a folder, in the order of the names."""
    if source.is_file():
        yield f"{name}/{source.name}", source
    elif source.is_dir():
        for path in sorted(source.rglob("*")):
            if path.is_file():
                yield f"{name}/{path.relative_to(source).as_posix()}", path
