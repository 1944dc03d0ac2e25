"""Reading weights from archives of whole networks whose classes are not installed.

``torch.save`` of a network writes a pickle that names the classes of all layers.
`read_foreign_weights` reads it with ``torch.load(weights_only=True)``, which creates objects of
allowed classes only. Each class that PyTorch does not know is allowed under its name as a stub
that keeps its state and does nothing, so no foreign code is needed or run. The layers are found by
PyTorch's attributes ``_modules``, ``_parameters`` and ``_buffers``. Assumptions A246 to A247.

Objects in the file may have attributes that hide methods, so dictionaries are read by
``dict.get(value, ...)`` and not by ``value.get(...)``.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from formats.weights.archive import check_archive

ORIGINAL: Final = "ultralytics."  # modules of the package whose networks are read
# Numpy values, the only calls with arguments that are accepted; their values are not used.
_VALUES: Final = ("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
_DTYPES: Final = (
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.int64
)  # fmt: skip
_MAX_PICKLE = 1 << 22  # bytes; a network of scale x with its optimizer takes less than a MiB
_MAX_CLASSES, _MAX_AXES = 200, 8
_MAX_PARTS, _MAX_DEPTH, _MAX_NAME = 50_000, 40, 500


@dataclass(frozen=True, slots=True)
class ForeignWeights:
    """Weights of a network of foreign classes.

    Attributes:
        tensors: weights by the names in the ``state_dict`` of the network; floating-point tensors
            are float32.
        part: entry of the file that has the network: ``ema``, ``model``, or empty for the only one.
        kind: class name of the network.
    """

    tensors: dict[str, Tensor]
    part: str
    kind: str


def read_foreign_weights(path: str | Path) -> ForeignWeights:
    """Read the weights of a network that was saved as a whole, without its classes.

    If a file has an averaged network under ``ema`` and another one under ``model``, the average
    is used, as in the original (A247).

    Args:
        path: archive of ``torch.save``.

    Raises:
        ValueError: the file is not an archive or broken, has no network, asks for a call that is
            refused, or its tensors and storages do not agree. The message begins with the path.
    """
    path = Path(path)
    try:
        _check_entries(path)
        part, network = _network(_load(path))
        tensors = _copied(dict(_tensors(network)), path.stat().st_size)
    except pickle.UnpicklingError as error:
        reason = unpickling_reason(error)
        raise ValueError(f"{path}: refused: {reason}. Nothing in it was executed.") from None
    except ValueError as error:
        raise ValueError(f"{path}: refused: {error}. Nothing in it was executed.") from None
    except Exception as error:  # broken bytes can make the reader raise any error
        reason = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
        raise ValueError(f"{path}: broken archive, cannot be read as weights ({reason})") from None
    if not tensors:
        raise ValueError(f"{path}: its network has no weights")
    return ForeignWeights(tensors, part, type(network).__name__.rpartition(".")[2])


def unpickling_reason(error: pickle.UnpicklingError) -> str:
    """Return why ``torch.load`` refuses a pickle, without its advice on how to allow everything."""
    reason = str(error.__context__ or error).strip()  # the advice is put around the context
    return reason.partition("\n")[0].partition(" Please ")[0].rstrip(". ")


def _check_entries(path: Path) -> None:
    """Raise for archives that are not from ``torch.save``, damaged, or have a huge pickle."""
    check_archive(path)
    with zipfile.ZipFile(path) as archive:
        pickles = [e for e in archive.infolist() if e.filename.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(
                "it is a zip archive, but not one of torch.save (one data.pkl expected, found "
                f"{len(pickles)})"
            )
        if pickles[0].file_size > _MAX_PICKLE:
            raise ValueError(f"the entry 'data.pkl' is larger than {_MAX_PICKLE} bytes")
        order = pickles[0].filename.replace("data.pkl", "byteorder")
        if order in archive.namelist() and archive.read(order) != b"little":
            raise ValueError("its values are not little-endian; save it on another machine")
        damaged = archive.testzip()
    if damaged:
        raise RuntimeError(f"the CRC of its entry {damaged[-60:]!r} is wrong")


class _Stub:
    """Placeholder for an object of a class that is not installed; keeps only its state."""

    __slots__ = ("state",)
    state: Any

    def __new__(cls, *_: Any) -> _Stub:
        """Create an object without a state, as a pickle does without calling the class."""
        made = super().__new__(cls)
        made.state = None
        return made

    def __init__(self, *arguments: Any) -> None:
        """Raise for calls in a pickle, except numpy values and empty classes of the original."""
        name = type(self).__name__
        if name not in _VALUES and (arguments or not name.startswith(ORIGINAL)):
            raise _refused_call(name, arguments)

    def __setstate__(self, state: Any) -> None:
        if self.state is not None:
            raise ValueError(f"its pickle gives the state of a {type(self).__name__!r} twice")
        self.state = state


def _refused_call(name: str, arguments: tuple[Any, ...]) -> ValueError:
    return ValueError(f"it asks for a call of {name[:100]!r} with {len(arguments)} arguments")


def _method(*arguments: Any) -> None:
    """Replace ``getattr``: the original stores methods of its classes by name (A246)."""
    owner = arguments[0] if arguments else None
    kind = owner if isinstance(owner, type) else type(owner)
    known = issubclass(kind, _Stub) and kind.__name__.startswith(ORIGINAL)
    if not known or tuple(map(type, arguments[1:])) != (str,):
        raise _refused_call("builtins.getattr", arguments)


def _load(path: Path) -> Any:
    """Load an archive with a stub for each class and function that PyTorch does not allow."""
    names = get_unsafe_globals_in_checkpoint(path)
    for name in names:
        if not name.isprintable():  # it is shown to users
            raise ValueError(f"its pickle names a class {name[:40]!r}")
    if len(names) > _MAX_CLASSES:  # the reader searches all of them at each step
        raise ValueError(f"its pickle names {len(names)} classes, more than {_MAX_CLASSES}")
    stubs: dict[str, Any] = {name: type(name, (_Stub,), {"__slots__": ()}) for name in names}
    if "builtins.getattr" in stubs:
        stubs["builtins.getattr"] = _method
    with safe_globals([(stub, name) for name, stub in stubs.items()]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _network(content: Any) -> tuple[str, _Stub]:
    """Return the name and the network of the entry to read from a file."""
    if isinstance(content, _Stub):
        return "", content
    if isinstance(content, dict):
        for part in ("ema", "model"):
            found = dict.get(content, part)
            if isinstance(found, _Stub):
                return part, found
    raise ValueError("it has no network, neither under 'ema' nor under 'model'")


def _tensors(network: _Stub) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and tensors of the state_dict of a network."""
    waiting, seen = [("", network, 0)], 0
    while waiting:
        prefix, module, depth = waiting.pop()
        parts = [_attribute(module, name) for name in ("_parameters", "_buffers", "_modules")]
        seen += 1 + sum(map(len, parts))
        if seen > _MAX_PARTS or depth > _MAX_DEPTH:
            raise ValueError("its layers contain themselves or are too many")
        parameters, buffers, children = parts
        for name, value in (parameters | _without_hidden(buffers, module)).items():
            if value is not None:
                whole = _joined(prefix, name)
                yield whole, _sound(value, whole)
        for name, child in reversed(children.items()):
            if isinstance(child, _Stub):
                waiting.append((_joined(prefix, name) + ".", child, depth + 1))
            elif child is not None:
                raise ValueError(f"{_joined(prefix, name)[:80]!r} is not a layer")


def _attribute(module: _Stub, name: str) -> dict[Any, Any]:
    """Return one of the three dictionaries of a layer."""
    value = dict.get(module.state, name) if isinstance(module.state, dict) else None
    if not isinstance(value, dict):
        raise ValueError(
            f"{type(module).__name__[:100]!r} is not a PyTorch module: it has no {name}"
        )
    return dict(dict.items(value))


def _without_hidden(buffers: dict[Any, Any], module: _Stub) -> dict[Any, Any]:
    """Return the buffers that are part of a state_dict."""
    hidden = dict.get(module.state, "_non_persistent_buffers_set")
    return {k: v for k, v in buffers.items() if not isinstance(hidden, set) or k not in hidden}


def _joined(prefix: str, name: Any) -> str:
    """Return the full name of a part; long names are refused, as all child names repeat them."""
    whole = prefix + name if isinstance(name, str) else prefix + type(name).__name__
    if len(whole) > _MAX_NAME or not whole.isprintable() or not isinstance(name, str):
        raise ValueError(
            f"a part of its network is named {whole[:40]!r} ({len(whole)} characters), refused"
        )
    return whole


def _sound(value: Any, name: str) -> Tensor:
    """Return the value detached, after a check that it is a plain tensor that fits its storage."""
    if type(value) not in (Tensor, nn.Parameter) or vars(value):
        raise ValueError(f"{name[:80]!r} is not a tensor")
    if value.dtype not in _DTYPES or value.layout != torch.strided or value.device.type != "cpu":
        raise ValueError(
            f"it has a tensor of {value.dtype}, {value.layout} and {value.device.type}; supported "
            f"are {', '.join(map(str, _DTYPES))} on the CPU"
        )
    stored = value.untyped_storage().nbytes()
    if value.ndim > _MAX_AXES or value.nbytes > stored or max(value.shape, default=0) > 1 << 32:
        raise ValueError(
            f"it has a tensor of shape {tuple(value.shape)} and strides {value.stride()} in a "
            f"storage of {stored} bytes, which do not agree"
        )
    return Tensor.detach(value)


def _copied(tensors: dict[str, Tensor], file_size: int) -> dict[str, Tensor]:
    """Return copies of the tensors; floating-point tensors become float32.

    Raises:
        ValueError: the tensors together are larger than the file, so they share values.
    """
    total = sum(value.nbytes for value in tensors.values())
    if total > file_size:
        raise ValueError(f"its tensors take {total} bytes, the file has {file_size}")
    return {
        name: value.to(
            torch.float32 if value.is_floating_point() else value.dtype,
            copy=True,
            memory_format=torch.contiguous_format,
        )
        for name, value in tensors.items()
    }
