"""Devices on which the folds of a cross-validation are trained."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from pytorch_lightning.accelerators import AcceleratorRegistry
from pytorch_lightning.utilities.exceptions import (  # type: ignore[attr-defined]
    MisconfigurationException,
)

from engine.cross_validation.fold import CPU

_GPUS = ("cuda", "mps")


class FoldDevices(NamedTuple):
    """Where folds are trained.

    Attributes:
        devices: devices that train a fold each at the same time; the processor alone counts once.
        workers: number of processes on the processor; None for torch's number of threads.
    """

    devices: tuple[torch.device, ...] = (CPU,)
    workers: int | None = None

    @property
    def on_cpu(self) -> bool:
        """Whether folds are trained on the processor."""
        return self.devices == (CPU,)

    def __str__(self) -> str:
        """Return the names of the devices, for the record."""
        return ", ".join(map(str, self.devices))


def fold_devices(accelerator: Any, devices: Any) -> FoldDevices:
    """Find the devices that ``trainer.accelerator`` and ``trainer.devices`` name.

    Args:
        accelerator: ``cpu``, ``gpu``, ``cuda``, ``mps`` or ``auto``, or the name of another one
            that is registered with Lightning.
        devices: number of devices, their indices, or ``auto`` for all of them. On the processor,
            the number of processes.

    Raises:
        ValueError: the accelerator is unknown or not available, or there are fewer devices.
    """
    name = _accelerator(str(accelerator).lower())
    found: Any = AcceleratorRegistry.get(name)
    count = devices
    if devices in ("auto", None):
        if name == "cpu":
            return FoldDevices()
        count = found.auto_device_count()
    try:
        places = found.get_parallel_devices(found.parse_devices(count))
    except (MisconfigurationException, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"trainer.devices {devices} on accelerator {name}: {reason}") from None
    if name == "cpu":
        return FoldDevices(workers=len(places))
    return FoldDevices(tuple(places))


def _accelerator(name: str) -> str:
    """Return the name in Lightning's registry of an accelerator that is available."""
    known = [n for n in AcceleratorRegistry.available_accelerators() if n not in ("tpu", "xla")]
    usable = [n for n in _GPUS if AcceleratorRegistry.get(n).is_available()]
    if name == "auto":
        return usable[0] if usable else "cpu"
    if name not in (*known, "gpu"):
        allowed = ", ".join(["auto", "gpu", *known])
        raise ValueError(f"trainer.accelerator must be one of {allowed}, got {name!r}")
    if name == "gpu":
        name = usable[0] if usable else "gpu"
    if name == "gpu" or not AcceleratorRegistry.get(name).is_available():
        raise ValueError(
            f"trainer.accelerator {name}: no such device is available here; leave it out, or give "
            "cpu"
        )
    return name
