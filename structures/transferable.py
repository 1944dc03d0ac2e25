"""Device transfer, pinning and detaching for frozen, slotted dataclasses of tensors."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, Self, SupportsIndex

import torch
from torch import Tensor
from torch.utils.data import get_worker_info


class Transferable:
    """Mixin that moves every tensor field of a dataclass and leaves other fields unchanged.

    Lightning rejects a frozen dataclass without ``to`` and the DataLoader silently skips pinning
    one without ``pin_memory``, so all structures passed to either inherit from this class.
    Nested ``Transferable`` fields are moved too.
    """

    __slots__ = ()

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        """Pack small tensors into one when a data loader worker pickles the batch.

        Every tensor sent to the main process needs a file descriptor, a socket connection and two
        memory maps, which for the small fields of a batch takes longer than copying their bytes.
        """
        if get_worker_info() is None:
            return super().__reduce_ex__(protocol)
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        small = [name for name, value in values.items() if _is_small(value)]
        packed, places = _pack([values.pop(name) for name in small])
        return _unpack, (type(self), values, packed, dict(zip(small, places, strict=True)))

    def _map_tensors(self, function: Any) -> Self:
        changed = {}
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                changed[field.name] = function(value)
            elif isinstance(value, Transferable):
                changed[field.name] = value._map_tensors(function)
        return dataclasses.replace(self, **changed)  # type: ignore[type-var]

    def to(
        self, device: torch.device | str, non_blocking: bool = False, copy: bool = False
    ) -> Self:
        """Return a copy whose tensors live on ``device``; values and dtypes are unchanged."""
        return self._map_tensors(lambda t: t.to(device, non_blocking=non_blocking, copy=copy))

    def pin_memory(self) -> Self:
        """Return a copy whose tensors are in page-locked memory (needs a CUDA device)."""
        return self._map_tensors(lambda t: t.pin_memory())

    def detach(self) -> Self:
        """Return a copy whose tensors are detached from the autograd graph."""
        return self._map_tensors(lambda t: t.detach())


_SMALL_BYTES = 2**16
_ALIGNMENT = 16  # bytes; enough for any dtype

_Place = tuple[int, int, torch.dtype, torch.Size]  # begin, end, dtype and shape of a tensor


def _is_small(value: object) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.requires_grad
        and value.nbytes <= _SMALL_BYTES
    )


def _pack(tensors: list[Tensor]) -> tuple[Tensor, list[_Place]]:
    """Copy tensors into one tensor of bytes."""
    places, end = [], 0
    for tensor in tensors:
        begin = -(-end // _ALIGNMENT) * _ALIGNMENT
        end = begin + tensor.nbytes
        places.append((begin, end, tensor.dtype, tensor.shape))
    packed = torch.empty(end, dtype=torch.uint8)
    for tensor, (begin, stop, _, _) in zip(tensors, places, strict=True):
        packed[begin:stop] = tensor.contiguous().view(-1).view(torch.uint8)
    return packed, places


def _unpack(
    kind: type[Any], values: dict[str, Any], packed: Tensor, places: dict[str, _Place]
) -> Any:
    small = {
        name: packed[begin:end].view(dtype).view(shape)
        for name, (begin, end, dtype, shape) in places.items()
    }
    return kind(**values, **small)


def check_field(owner: str, name: str, value: Tensor, shape: tuple[int | str, ...]) -> None:
    """Check the shape of one field without reading its values, which would synchronise a GPU.

    Args:
        owner: class name for the message.
        name: field name for the message.
        value: the tensor.
        shape: expected extent per axis; a string names a free axis.

    Raises:
        ValueError: the rank or a fixed extent differs.
    """
    if not isinstance(value, Tensor):
        raise ValueError(f"{owner}.{name} must be a tensor, got {type(value).__name__}")
    matches = value.ndim == len(shape) and all(
        isinstance(want, str) or want == have for want, have in zip(shape, value.shape, strict=True)
    )
    if not matches:
        wanted = "(" + ", ".join(str(s) for s in shape) + ("," if len(shape) == 1 else "") + ")"
        raise ValueError(
            f"{owner}.{name} must have shape {wanted}, got {tuple(value.shape)} ({value.dtype})"
        )


def check_dtype(
    owner: str, name: str, value: Tensor, kind: Literal["float", "integer", "bool"]
) -> None:
    """Check the kind of a field's dtype: floating point of any width, integer, or bool.

    Raises:
        ValueError: the dtype is of another kind.
    """
    found = "float" if value.is_floating_point() else "integer"
    found = "bool" if value.dtype == torch.bool else found
    if found != kind:
        raise ValueError(f"{owner}.{name} must be {kind}, got {value.dtype}")
