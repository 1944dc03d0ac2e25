"""Exponential moving average of the weights, which is validated and saved.

After each optimizer step, with n previous averages,

    average <- d_n average + (1 - d_n) weights,   d_n = decay (1 - exp(-n / warmup_steps))

so the first average equals the weights and the memory grows to 1 / (1 - decay) steps. YOLO-style
detectors are trained with this average (YOLOX, arXiv 2107.08430, sec. 2.1).  # A70
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

_NETWORK = "model."  # prefix of the names of the network's tensors in a checkpoint


@dataclass(frozen=True)
class EMAOptions:
    """Options of the ``ema`` section of a configuration.

    Attributes:
        decay: weight of the past in each average once warmed up, in [0, 1).
        warmup_steps: steps after which the weight of the past reaches 63 % of ``decay``; 0 for no
            warm-up.
    """

    decay: float = 0.9998
    warmup_steps: float = 2000.0


class EMA(WeightAveraging):
    """Average the network's weights during training; validate and save the average.

    Unlike Lightning's class it averages only the LightningModule's ``model``, copies integer
    buffers instead of averaging them, keeps the average in the module until the last validation
    hook and after training, and always saves the raw weights as well. A checkpoint has the average
    under ``state_dict`` and the raw weights under ``current_model_state``.

    Every process averages its own copy of the weights, which are equal; the statistics of batch
    norm are taken from the first process, which also writes the checkpoints.

    Args:
        decay: see `EMAOptions`.
        warmup_steps: see `EMAOptions`.

    Raises:
        ValueError: a number is out of range, or the weights have half precision when training
            starts, which would round small steps of the average to zero.
    """

    def __init__(self, decay: float = 0.9998, warmup_steps: float = 2000.0) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema.decay must be in [0, 1), got {decay}")
        if warmup_steps < 0:
            raise ValueError(f"ema.warmup_steps must not be negative, got {warmup_steps}")
        # Floating-point buffers (statistics of batch norm) belong to the weights with which they
        # were measured, so they are averaged in the same way.  # A71
        super().__init__(use_buffers=True, multi_avg_fn=self._average)
        self.decay = decay
        self.warmup_steps = warmup_steps
        self._raw: list[Tensor] | None = None  # the raw weights while the average is in the module

    def decay_after(self, averages: int) -> float:
        """Return d_n, the weight of the past after n averages.

        >>> EMA(decay=0.5, warmup_steps=0).decay_after(1)
        0.5
        >>> EMA(decay=0.5, warmup_steps=1).decay_after(0) == 0
        True
        """
        if self.warmup_steps == 0:
            return self.decay if averages else 0.0
        return self.decay * -math.expm1(-averages / self.warmup_steps)

    def _average(self, averages: Any, weights: Any, averages_made: Tensor | int) -> None:
        """Update a group of tensors of the same kind in place."""
        del averages_made  # on the device; reading it would synchronise
        if averages[0].is_floating_point():
            decay = self.decay_after(int(self._kept.n_averaged))
            update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
            update(averages, weights, 0)
            return
        for average, value in zip(averages, weights, strict=True):
            average.copy_(value)  # counters of batch norm are not averaged

    @property
    def _kept(self) -> AveragedModel:
        assert self._average_model is not None
        return self._average_model

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Copy the network when training starts."""
        del trainer
        if stage != "fit":
            return
        kept = AveragedModel(
            _network(pl_module), pl_module.device, use_buffers=True, multi_avg_fn=self._average
        )
        kept.requires_grad_(False)
        kept.n_averaged = torch.zeros((), dtype=torch.long)  # on the CPU: read at every step
        self._average_model, self._raw = kept, None
        self._latest_update_step = 0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Move the average to the device of the network."""
        half = {p.dtype for p in pl_module.parameters()} & {torch.float16, torch.bfloat16}
        if half:
            raise ValueError(
                f"ema: trainer.precision {trainer.precision} gives {half.pop()} weights, which "
                "are too coarse for an average; use bf16-mixed or 16-mixed, which keep float32"
            )
        self._kept.module.to(pl_module.device)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Update the average once per optimizer step, even if it accumulates several batches."""
        del outputs, batch, batch_idx
        if trainer.global_step > self._latest_update_step:
            self._kept.update_parameters(_network(pl_module))
            self._latest_update_step = trainer.global_step

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Do nothing: the average is updated after steps."""

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the average in place before any other validation hook."""
        if self._average_model is None or self._raw is not None:
            return
        if trainer.world_size > 1:  # processes see different batches, so their statistics differ
            for buffer in self._kept.module.buffers():
                torch.distributed.broadcast(buffer, 0)
        self._put_average(_network(pl_module))

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Do nothing: the average is in place already."""

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Do nothing: the module's own hook, which comes later, must see the average too."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the raw weights back."""
        del trainer
        self._put_raw(_network(pl_module))

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Put the raw weights back when validation is interrupted."""
        del trainer, exception
        self._put_raw(_network(pl_module))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the average in the module; a checkpoint written now still has the raw weights."""
        del trainer
        self._put_average(_network(pl_module))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Free the copies."""
        del trainer, pl_module, stage
        self._average_model = self._raw = None

    @torch.no_grad()
    def _put_average(self, network: nn.Module) -> None:
        current = _tensors(network)
        self._raw = [value.detach().clone() for value in current]
        for value, average in zip(current, _tensors(self._kept.module), strict=True):
            value.copy_(average)

    @torch.no_grad()
    def _put_raw(self, network: nn.Module) -> None:
        if self._raw is None:
            return
        for value, raw in zip(_tensors(network), self._raw, strict=True):
            value.copy_(raw)
        self._raw = None

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the average as the model's state, and the raw weights separately."""
        del trainer
        if self._average_model is None:  # outside training the module has the weights to save
            return
        network = _network(pl_module)
        state = checkpoint["state_dict"]
        raw = {k: v for k, v in state.items() if k.startswith(_NETWORK)}
        if self._raw is not None:
            stash = {id(v): r for v, r in zip(_tensors(network), self._raw, strict=True)}
            named = network.state_dict(keep_vars=True)
            raw = {_NETWORK + name: stash[id(value)] for name, value in named.items()}
        average = {_NETWORK + k: v for k, v in self._kept.module.state_dict().items()}
        checkpoint["current_model_state"] = raw
        checkpoint["state_dict"] = state | average
        checkpoint["averaging_state"] = {"n_averaged": self._kept.n_averaged.clone()}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore raw weights, average and count; start an average if there was none."""
        del trainer
        if self._average_model is None:  # evaluation needs only the average, which is loaded
            return
        network = _network(pl_module)
        self._kept.module.load_state_dict(_part(checkpoint["state_dict"]))
        if "averaging_state" not in checkpoint:
            rank_zero_info("ema: the checkpoint has no average; it starts from the weights")
            return
        self._kept.n_averaged = checkpoint["averaging_state"]["n_averaged"].clone()
        network.load_state_dict(_part(checkpoint["current_model_state"]))


def _network(module: pl.LightningModule) -> nn.Module:
    network = module.model
    assert isinstance(network, nn.Module)
    return network


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


def _part(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(_NETWORK): v for k, v in state.items() if k.startswith(_NETWORK)}
