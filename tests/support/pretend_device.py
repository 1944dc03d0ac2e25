"""Simulated accelerator, to test device code on machines without one.

Its tensors report the device ``mps:0`` and are computed on the CPU, but follow the rules of a real
device: operations reject CPU tensors together with them, NumPy cannot read them, and there is no
float64, as on Apple's GPUs. Operations that make the host wait for the device are counted.

It detects tensors on the wrong device, not differences in the results of a device.
"""

import collections
import contextlib
from unittest import mock

import torch
from pytorch_lightning.accelerators import AcceleratorRegistry, CPUAccelerator
from pytorch_lightning.strategies import SingleDeviceStrategy, StrategyRegistry
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from structures import devices

DEVICE = torch.device("mps", 0)
HOST = torch.device("cpu")
aten = torch.ops.aten
_COPIES = {aten.copy_.default, aten._to_copy.default}
_INDEXING = {
    aten.index.Tensor, aten.index_put.default, aten.index_put_.default,
    aten._index_put_impl_.default, aten._unsafe_index.Tensor,
}  # fmt: skip
# These do not accept scalar tensors of the host either.
_NO_SCALARS = {aten.stack.default, aten.cat.default, aten.index_select.default}
# The shape of their result is known only on the device, or the result is a number on the host.
_WAITS = {
    aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default,
    aten._unique2.default, aten.unique_dim.default, aten.unique_consecutive.default,
    aten.bincount.default, aten.equal.default, aten.is_nonzero.default,
}  # fmt: skip


class OnDevice(torch.Tensor):
    """A tensor of the device; ``held`` is the CPU tensor with its values."""

    @staticmethod
    def __new__(cls, held):
        shape = torch.empty_strided(held.size(), held.stride(), dtype=held.dtype, device="meta")
        return torch.Tensor._make_subclass(cls, shape, False)

    def __init__(self, held):
        self.held = held

    device = property(lambda self: DEVICE)
    is_cpu = property(lambda self: False)
    is_mps = property(lambda self: True)
    is_meta = property(lambda self: False)

    def __repr__(self):
        return f"OnDevice({self.held})"

    def __reduce_ex__(self, protocol):
        """Pickle the CPU tensor, so that files do not contain the device."""
        return self.held.__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise RuntimeError(f"{function} outside of pretend_device()")


class _Operations(TorchDispatchMode):
    """Runs each operation on the CPU after a check of the devices of its tensors."""

    def __init__(self, float64):
        super().__init__()
        self.float64 = float64
        self.waits = collections.Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function._can_decompose():  # same as without gradients; the parts are checked instead
            with self:
                return function.decompose(*args, **kwargs)
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        here = [x for x in tensors if isinstance(x, OnDevice)]
        on_device = bool(here)
        if kwargs.get("device") is not None:
            on_device = torch.device(kwargs["device"]).type != "cpu"
            kwargs = kwargs | {"device": HOST}
        if here:
            self._check(function, args, kwargs, tensors, on_device)
        if here or on_device:
            self._count(function, args, kwargs, bool(here), on_device)
        if function is aten.copy_.default and not isinstance(args[0], OnDevice):
            on_device = False
        wrappers = {id(x.held): x for x in here}
        args, kwargs = tree_map_only(OnDevice, lambda x: x.held, (args, kwargs))
        result = function(*args, **kwargs)
        if not on_device:
            return result
        return tree_map_only(torch.Tensor, lambda x: self._wrapped(x, wrappers, function), result)

    def _check(self, function, args, kwargs, tensors, on_device):
        if function in _COPIES:
            first = args[0]
            wanted = first.dtype if function is aten.copy_.default else kwargs.get("dtype")
            copied = function is aten._to_copy.default
            leaves = not (on_device if copied else isinstance(first, OnDevice))
            source = first if copied else args[1]
            if leaves and wanted == torch.float64 != source.dtype and not self.float64:
                raise TypeError(f"{function}: float64 can't be made on the way from the device")
            return
        if function in _INDEXING:  # indices may be on the host
            tensors = [args[0], *args[2:3]] if isinstance(args[0], OnDevice) else tensors
        strange = [x for x in tensors if not isinstance(x, OnDevice)]
        if function not in _NO_SCALARS:
            strange = [x for x in strange if x.dim() > 0]
        if strange:
            shapes = [tuple(x.shape) for x in strange]
            raise RuntimeError(f"{function}: some tensors are on the device, {shapes} are not")

    def _count(self, function, args, kwargs, here, on_device):
        if not here:  # copies from the host block unless non_blocking is given
            if function in _COPIES and not kwargs.get("non_blocking"):
                self.waits[str(function)] += 1
            return
        chosen = args[1] if function in _INDEXING else ()
        by_mask = any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in chosen)
        to_host = function in _COPIES and not on_device
        if function is aten.copy_.default:
            to_host = not isinstance(args[0], OnDevice)
        repeats = function is aten.repeat_interleave.Tensor and not kwargs.get("output_size")
        if function in _WAITS or by_mask or to_host or repeats:
            self.waits[str(function)] += 1

    def _wrapped(self, tensor, wrappers, function):
        if tensor.dtype in (torch.float64, torch.complex128) and not self.float64:
            raise TypeError(f"{function}: the device has no float64")
        known = wrappers.get(id(tensor))
        if known is not None and known.shape != tensor.shape:
            raise NotImplementedError(f"{function} changes a shape in place")
        return OnDevice(tensor) if known is None else known


def _indexed(value):
    """Add the index to the device; otherwise torch would query the real device for it."""
    return DEVICE if isinstance(value, str | torch.device) and str(value) == "mps" else value


class _Functions(TorchFunctionMode):
    """Functions that bypass the dispatcher or query the real device."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        first = args[0] if args else None
        if function is torch.Tensor.to:
            args, kwargs = tree_map(_indexed, (args, kwargs))
        elif function in (torch.tensor, torch.as_tensor, torch.asarray):
            device = _indexed(kwargs.pop("device", None))
            needs = kwargs.pop("requires_grad", False)
            made = function(*args, **kwargs)
            made = made if device is None else made.to(device)
            return made.requires_grad_() if needs else made
        elif isinstance(first, OnDevice):
            if function is torch.Tensor.tolist:
                return first.detach().cpu().tolist()
            if function in (torch.Tensor.numpy, torch.Tensor.__array__):
                raise TypeError("NumPy can't see a tensor of the device; call .cpu() first")
            if function is torch.Tensor.new_tensor:
                dtype = kwargs.get("dtype") or first.dtype
                return torch.tensor(args[1], dtype=dtype).to(kwargs.get("device") or DEVICE)
        return function(*args, **kwargs)


@contextlib.contextmanager
def pretend_device(float64=False):
    """Simulate the device inside the block, also for ``Module.to``.

    Args:
        float64: whether the device supports float64, as NVIDIA's do.

    Yields:
        A counter of the operations that made the host wait for the device.
    """
    swap = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    operations, without = _Operations(float64), set() if float64 else {"mps"}
    try:
        with mock.patch.object(devices, "_WITHOUT_FLOAT64", without), _Functions(), operations:
            yield operations.waits
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swap)


class _Accelerator(CPUAccelerator):
    def setup_device(self, device):
        assert device == DEVICE

    @staticmethod
    def parse_devices(devices):
        return 1

    @staticmethod
    def get_parallel_devices(devices):
        return [DEVICE]

    @staticmethod
    def is_available():
        return True

    @staticmethod
    def name():
        return "pretend"


class _Strategy(SingleDeviceStrategy):
    def __init__(self, **options):
        super().__init__(**(options | {"device": DEVICE}))

    def teardown(self):
        """Do nothing: the network does not need to move to the CPU."""


# Use: `--trainer.accelerator pretend --trainer.strategy pretend` inside of `pretend_device`.
if "pretend" not in AcceleratorRegistry.available_accelerators():
    AcceleratorRegistry.register("pretend", _Accelerator, description="see above")
    StrategyRegistry.register("pretend", _Strategy, description="see above")
