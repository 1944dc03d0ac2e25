"""Broken checkpoints and weight files, and valid ones of the wrong kind."""

import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from tests.faults import sets
from tests.faults.bags import Code
from tests.faults.case import MARKER, Case

Words = Callable[[Path, Path], list[object]]


def scored(folder: Path, file: Path) -> list[object]:
    del folder
    bags = sets.write_bags(file.parent / "bags.npz")
    return ["evaluate", "mil", "--ckpt", file, "--data", bags, "--draws", 10]


def predicted(folder: Path, file: Path) -> list[object]:
    bags = sets.write_bags(folder / "bags.npz")
    return ["train", "predict", "--ckpt_path", file, "--data", bags, *sets.CPU]


def resumed(folder: Path, file: Path) -> list[object]:
    bags = sets.write_bags(folder / "bags.npz")
    return [*sets.MIL, "--data.file", bags, "--ckpt_path", file]


def tested(folder: Path, file: Path) -> list[object]:
    words = resumed(folder, file)
    return ["train", "test", *words[2:]]


def validated(folder: Path, file: Path) -> list[object]:
    words = resumed(folder, file)
    return ["train", "validate", *words[2:]]


def started(folder: Path, file: Path) -> list[object]:
    bags = sets.write_bags(folder / "bags.npz")
    return [*sets.MIL, "--data.file", bags, "--model.init_args.init_from", file]


def detected(folder: Path, file: Path) -> list[object]:
    root = sets.write_coco(folder)
    truth, images = root / "annotations/instances_val.json", root / "images/val"
    return ["evaluate", "coco", "--ckpt", file, "--annotations", truth, "--images", images]


def bytes_case(
    name: str, change: Callable[[bytes], bytes], *expected: str, use: Words = scored
) -> Case:
    """Use a checkpoint with changed bytes."""

    def build(folder: Path) -> list[object]:
        file = folder / "broken.ckpt"
        file.write_bytes(change(sets.mil_checkpoint().read_bytes()))
        return use(folder, file)

    return Case("checkpoint", name, build, ("broken.ckpt", *expected))


def content_case(
    name: str,
    change: Callable[[dict[str, Any]], Any],
    *expected: str,
    use: Words = scored,
    of: Callable[[], Path] = sets.mil_checkpoint,
    named: str = "broken.ckpt",
) -> Case:
    """Use a checkpoint with changed content; ``change`` works in place or returns new content."""

    def build(folder: Path) -> list[object]:
        content = torch.load(of(), weights_only=True)
        changed = change(content)
        file = folder / "broken.ckpt"
        torch.save(content if changed is None else changed, file)
        return use(folder, file)

    return Case("checkpoint", name, build, (named, *expected))


def words_case(name: str, words: Callable[[Path], list[object]], *expected: str) -> Case:
    return Case("checkpoint", name, words, expected)


def with_code(use: Words, suffix: str = ".ckpt", legacy: bool = False) -> Case:
    """Use a file that would run code when unpickled."""

    def build(folder: Path) -> list[object]:
        file = folder / f"code{suffix}"
        content = {"state_dict": {}, "segmil": Code(folder / MARKER)}
        torch.save(content, file, _use_new_zipfile_serialization=not legacy)
        return use(folder, file)

    name = f"code inside{' an old file' if legacy else ''}, {use.__name__}"
    return Case("checkpoint", name, build, ("code", "refused"))


def _plain_pickle(folder: Path) -> list[object]:
    (folder / "code.ckpt").write_bytes(pickle.dumps(Code(folder / MARKER)))
    return scored(folder, folder / "code.ckpt")


def _repacked(content: bytes, lost: str) -> bytes:
    """Return an archive without the members whose name contains ``lost``."""
    whole, rest = zipfile.ZipFile(io.BytesIO(content)), io.BytesIO()
    with zipfile.ZipFile(rest, "w") as archive:
        for name in whole.namelist():
            if lost not in name:
                archive.writestr(name, whole.read(name))
    return rest.getvalue()


def _tar(_: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("state_dict"))
    return file.getvalue()


def _flipped(content: bytes) -> bytes:
    place = content.index(b"data.pkl") + 200
    return content[:place] + bytes(b ^ 255 for b in content[place : place + 40]) + content[
        place + 40 :
    ]  # fmt: skip


def record(key: str, value: Any = None) -> Callable[[dict[str, Any]], None]:
    """Set ``a.b`` of the record, or remove it if the value is None."""

    def change(content: dict[str, Any]) -> None:
        section = content["segmil"]
        *parents, last = key.split(".")
        for parent in parents:
            section = section[parent]
        if value is None:
            del section[last]
        else:
            section[last] = value

    return change


def weights(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], None]:
    def changed(content: dict[str, Any]) -> None:
        change(content["state_dict"])

    return changed


def _not_finite(state: dict[str, Any]) -> None:
    for value in state.values():
        value.mul_(float("nan"))


def _lost(content: dict[str, Any]) -> None:
    del content["state_dict"]


def _cut(state: dict[str, Any]) -> None:
    name = next(name for name, value in state.items() if value.ndim == 2)
    state[name] = state[name][:, :-1].clone()


def _renamed(content: dict[str, Any]) -> None:
    content["state_dict"] = {f"net.{k}": v for k, v in content["state_dict"].items()}


_LIGHTNING = {"state_dict": {"layer.weight": torch.zeros(2, 2)}, "epoch": 3, "global_step": 10}

BYTES = [
    words_case("missing file", lambda f: scored(f, f / "none.ckpt"), "none.ckpt", "no such"),
    words_case("missing file to resume", lambda f: resumed(f, f / "none.ckpt"), "none.ckpt"),
    words_case("missing file to predict", lambda f: predicted(f, f / "none.ckpt"), "none.ckpt"),
    words_case("a folder", lambda f: scored(f, f), "no such"),
    bytes_case("empty file", lambda _: b""),
    bytes_case("cut in half", lambda c: c[: len(c) // 2]),
    bytes_case("cut in half, to resume", lambda c: c[: len(c) // 2], use=resumed),
    bytes_case("cut in half, to predict", lambda c: c[: len(c) // 2], use=predicted),
    bytes_case("cut in half, to test", lambda c: c[: len(c) // 2], use=tested),
    bytes_case("cut in half, to validate", lambda c: c[: len(c) // 2], use=validated),
    bytes_case("cut in half, as weights", lambda c: c[: len(c) // 2], use=started),
    bytes_case("cut in half, for images", lambda c: c[: len(c) // 2], use=detected),
    bytes_case("last byte lost", lambda c: c[:-1]),
    bytes_case("first kilobyte alone", lambda c: c[:1000]),
    bytes_case("first bytes lost", lambda c: c[64:]),
    bytes_case("bytes flipped", _flipped),
    bytes_case("zeros from a full disk", lambda c: bytes(len(c))),
    bytes_case("an archive without its index", lambda c: _repacked(c, "data.pkl")),
    bytes_case("an archive without its numbers", lambda c: _repacked(c, "/data/")),
    bytes_case("an archive of text", lambda c: _repacked(c, "") and _repacked(c, "archive/")),
    bytes_case("a tar archive", _tar),
    bytes_case("a web page", lambda _: b"<!DOCTYPE html><title>404</title>"),
    bytes_case("a large-file pointer", lambda _: b"version https://git-lfs.github.com/spec/v1\n"),
    bytes_case("safetensors under another name", lambda _: save({"a": torch.zeros(3)})),
    with_code(scored),
    with_code(resumed),
    with_code(tested),
    with_code(predicted),
    with_code(started, ".pt"),
    with_code(detected),
    with_code(scored, legacy=True),
    Case("checkpoint", "a bare pickle with code", _plain_pickle, ("code.ckpt", "refused")),
]

CONTENTS = [
    content_case("a list", lambda _: [1, 2]),
    content_case("a tensor", lambda _: torch.zeros(3), "tensor"),
    content_case("bare weights", lambda c: c["state_dict"], "not a segmil checkpoint"),
    content_case("bare weights, to resume", lambda c: c["state_dict"], "init_from", use=resumed),
    content_case("a checkpoint of another project", lambda _: _LIGHTNING, "not a segmil"),
    content_case("a checkpoint of another project, to test", lambda _: _LIGHTNING, "not a segmil",
                 use=tested),
    content_case("a record that is text", lambda c: c.update(segmil="yes"), "not a segmil"),
    content_case("a record without configuration", record("blueprint"), "not a segmil"),
    content_case("an earlier format", record("format", 1), "format 1, this code reads 2"),
    content_case("a later format", record("format", 99), "format 99"),
    content_case("a format as text", record("format", "two"), "format two"),
    content_case("no format", record("format"), "format none"),
    content_case("no configuration of the model", record("blueprint.model"), "model"),
    content_case("no configuration of the data", record("blueprint.data"), "data"),
    content_case("no links", record("blueprint.links"), "links"),
    content_case("an unknown link", record("blueprint.links.colour", 3), "colour"),
    content_case("no facts", record("facts"), "facts"),
    content_case("no preprocessing", record("facts.preprocessing"), "preprocessing"),
    content_case("no threshold", record("facts.threshold"), "threshold"),
    content_case("no precision", record("precision"), "precision"),
    content_case("a precision that is none", record("precision", "fp17"), "fp17",
                 named="precision"),
    content_case("a class that no longer exists",
                 record("blueprint.model.class_path", "lightning_modules.Gone"), "Gone"),
    content_case("a function as class", record("blueprint.model.class_path", "os.system"), ),
    content_case("an argument that no longer exists",
                 record("blueprint.model.init_args.gone", 3), "gone"),
    content_case("a width of another model",
                 record("blueprint.model.init_args.model.init_args.attention_dim", 8), "weights"),
    content_case("features of another number", record("blueprint.links.in_features", 5),
                 "weights"),
    content_case("statistics of another number", record("facts.preprocessing.mean", [0.0]),
                 "mean and std", named="1 and 4 entries"),
    content_case("no weights", _lost, "state_dict"),
    content_case("one weight lost", weights(lambda s: s.popitem()), "weights", "missing"),
    content_case("one weight more", weights(lambda s: s.update(extra=torch.zeros(1))), "extra"),
    content_case("one weight of another shape", weights(_cut), "weights", "size mismatch"),
    content_case("weights under other names", _renamed, "weights"),
    content_case("weights that are text", weights(lambda s: s.update(dict.fromkeys(s, "w"))),
                 "weights"),
    content_case("weights that are NaN", weights(_not_finite), "finite"),
    content_case("one weight of another shape, to resume", weights(_cut), "init_from",
                 use=resumed, named="(128, 3) in the checkpoint"),
    content_case("weights of which nothing fits", _renamed, "nothing in this file fits",
                 use=started),
    content_case("no weights to start from", lambda c: {"epoch": c["epoch"]}, "nothing",
                 use=started),
    content_case("bags for images", lambda _: None, "MILModule", "SegmentationModule",
                 use=detected),
    content_case("images for bags", lambda _: None, "SegmentationModule", "MILModule",
                 of=sets.seg_checkpoint),
    content_case("no category map", record("facts.category_map"), "category_map", use=detected,
                 of=sets.seg_checkpoint),
    content_case("a category map without names", record("facts.category_map", {"ids": [3, 7]}),
                 "names", use=detected, of=sets.seg_checkpoint),
    content_case("a category map of one class", record("facts.category_map",
                 {"ids": [3], "names": ["cell"]}), "class", use=detected, of=sets.seg_checkpoint),
    content_case("categories of another data set", record("facts.category_map",
                 {"ids": [30, 70], "names": ["cat", "dog"]}), "cat", use=detected,
                 of=sets.seg_checkpoint, named="instances_val.json"),
    content_case("categories of another name", record("facts.category_map",
                 {"ids": [3, 7], "names": ["cat", "dot"]}), "cat", "cell", use=detected,
                 of=sets.seg_checkpoint, named="instances_val.json"),
]  # fmt: skip

CASES = [*BYTES, *CONTENTS]
