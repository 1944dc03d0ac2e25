"""Feature files, previews and the table that `predict` makes of whole slides."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Collection
from datetime import timedelta
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import rich
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor

from callbacks.wsi.extraction_table import DONE, FAILED, TABLE, ExtractionTable, row
from callbacks.wsi.shard_tables import join_tables
from formats.slide_features import LARGEST, SlideFeatureWriter, remove_parts
from formats.slides.qupath import write_objects
from loggers.run_files import write_png
from structures import PatchBatch, settle


class FeatureFiles(pl.Callback):
    """Write the features of whole slides, a file for each; of several processes, each its own.

    ``<features>/<slide_id>.h5``, ``<features>/previews/<slide_id>.png``,
    ``<features>/tissue/<slide_id>.geojson`` and ``<features>/extraction.csv``, see
    `docs/slides.md`. Does nothing for other data.

    A slide that cannot be read, has no patch, or whose features are not finite or beyond half
    precision gets no file; its row says why, and the other slides go on.

    Args:
        previews: whether to draw the previews.
    """

    entry = "feature_files"
    order = 125

    def __init__(self, previews: bool = True) -> None:
        self.previews = previews
        self.folder: Any = None  # where the files are, once a run has written some
        self._data: Any = None
        self._table: ExtractionTable | None = None
        self._writer: SlideFeatureWriter | None = None
        self._plan: Any = None
        self._dropped = ""  # the slide that has failed
        self._count, self._start, self._clock = 0, 0.0, 0.0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Prepare the table, before any process begins."""
        del pl_module
        data: Any = getattr(trainer, "datamodule", None)
        if stage != "predict" or not getattr(data, "extracts", False) or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._data, self.folder = data, data.features
        self._table = ExtractionTable(data.features, data.shard.table if data.shard else TABLE)
        own = {header.slide_id for header in data.todo}
        for name in own:
            remove_parts(data.file_of(name))
            remove_parts(self._preview_file(name))
        self._table.begin(own, self._known_rows() if trainer.is_global_zero else ())

    def _known_rows(self) -> list[dict[str, str]]:
        """Return the rows of finished slides, and of those whose headers cannot be read."""
        rows = []
        for name, (patches, made) in self._data.finished.items():
            values = {"patches": patches, "tissue_mm2": made.tissue_mm2}
            values |= {"slide_mpp": made.slide_mpp, "mpp_source": made.mpp_source}
            rows.append(row(name, DONE, **values))
        for problem in self._data.problems:
            if problem.item is not None:
                reason = f"{problem.reason}; {problem.remedy}"
                rows.append(row(str(problem.item), FAILED, reason=reason))
        return rows

    def _preview_file(self, slide_id: str) -> Any:
        return self.folder / "previews" / f"{slide_id}.png"

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock; end at once at SIGTERM, for which Lightning would wait in vain."""
        self._start = self._clock = time.perf_counter()
        if self._table is None or threading.current_thread() is not threading.main_thread():
            return

        def stop(number: int, frame: FrameType | None) -> None:
            del frame
            if trainer.strategy.launcher is not None:  # the processes that this one has started
                trainer.strategy.launcher.kill(signal.Signals(number))
            raise SIGTERMException

        signal.signal(signal.SIGTERM, stop)  # the trainer restores the handler when it is done

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the features of the batch."""
        if not isinstance(batch, PatchBatch) or self._table is None:
            return
        if batch.first == 0:
            self._plan = self._data.take_plan(batch.slide_id)
            self._draw()
            self._write_outlines()
        if batch.slide_id == self._dropped:
            return
        if batch.fault:
            self._fail(batch.fault)
            return
        features = outputs.float().half().cpu()
        if not bool(torch.isfinite(features).all()):
            self._fail(_what_is_wrong(outputs, batch))
            return
        if self._writer is None:
            made = self._data.attributes_of(self._plan)
            path = self._data.file_of(batch.slide_id)
            versions = 0 if batch.versions is None else len(batch.versions)
            self._writer = SlideFeatureWriter(
                path, batch.patches, features.shape[-1], made, versions
            )
        self._writer.add(features.numpy(), batch.coords.cpu().numpy())
        if batch.first + len(batch) == batch.patches:
            self._finish()

    def _draw(self) -> None:
        if self.previews and self._plan.preview is not None:
            write_png(
                self._preview_file(self._plan.header.slide_id), self._plan.preview, compression=3
            )

    def _write_outlines(self) -> None:
        """Write the outlines of the tissue, unless there are some, which may be corrected."""
        plan, folder = self._plan, self.folder / "tissue"
        path = folder / f"{plan.header.slide_id}.geojson"
        if plan.tissue is None or self._data.tissue_outlines is not None or path.exists():
            return
        write_objects(path, plan.tissue_objects(), plan.tissue.origin)

    def _finish(self) -> None:
        """Give the file its name and write the row."""
        assert self._writer is not None
        self._writer.finish()
        self._data.finish(self._plan.header.slide_id)
        slide, self._writer = self._plan.slide, None
        seconds = self._lap()
        values = {"patches": len(slide), "tissue_mm2": slide.tissue_mm2}
        self._add_row(DONE, seconds=seconds, **values)
        self._tell(
            f"{len(slide)} patches, {slide.tissue_mm2:.3g} mm2 of tissue, {seconds:.1f} s, "
            f"{len(slide) / max(seconds, 1e-9):.0f} patches/s"
        )

    def _fail(self, fault: str) -> None:
        """Give the slide up and write the row."""
        self._dropped = self._plan.header.slide_id
        self._data.give_up(self._dropped)
        self._abandon()
        problem = self._data.failure(self._plan.header, fault)
        self._data.finish(self._dropped)
        self._add_row(FAILED, reason=f"{problem.reason}; {problem.remedy}", seconds=self._lap())
        self._tell(f"failed: {problem.reason}")

    def _add_row(self, status: str, **values: object) -> None:
        assert self._table is not None
        header = self._plan.header
        known = {"slide_mpp": header.mpp, "mpp_source": header.mpp_source}
        self._table.add(row(header.slide_id, status, **known, **values))

    def _lap(self) -> float:
        """Return the seconds since the slide before was finished (A524)."""
        before, self._clock = self._clock, time.perf_counter()
        return self._clock - before

    def _tell(self, text: str) -> None:
        self._count += 1
        left = len(self._data.todo) - self._count
        seconds = round((self._clock - self._start) / self._count * left)
        text += f", left {timedelta(seconds=seconds)}" if left else ""
        line = f"{self._plan.header.slide_id} ({self._count} of {len(self._data.todo)}): {text}"
        rich.get_console().print(line, soft_wrap=True, highlight=False, markup=False)

    def _abandon(self) -> None:
        if self._writer is not None:
            self._writer.abandon()
            self._writer = None

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Remove the file of a slide that was not finished."""
        self._abandon()
        if self._table is not None:
            self._data.teardown("predict")
        stopped = isinstance(exception, KeyboardInterrupt | SIGTERMException)
        if stopped and self._table is not None and trainer.is_global_zero:
            sys.stderr.write(f"stopped; {self._data.after_stop}\n")

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say how many slides failed, on the process that ends last.

        Where the command goes on with the features, every process waits here for all slides.

        Raises:
            DataProblems: slides failed, and ``bad_data`` is ``error``; not where the command goes
                on, which tells it at its end.
        """
        if self._table is None:
            return
        self._abandon()  # of a slide that limit_predict_batches has cut
        names = [header.slide_id for header in self._data.headers]
        if self._data.continues and trainer.world_size > 1:
            wait_for_rows(self._table, names)
        if not (trainer.is_global_zero if self._data.continues else _decides(trainer)):
            return
        rows = self._table.read()
        if trainer.world_size > 1 and any(name not in rows for name in names):
            return  # another process is still at work
        done = [name for name in names if rows.get(name, {}).get("status") == DONE]
        failed = [h for h in self._data.headers if rows.get(h.slide_id, {}).get("status") == FAILED]
        problems = [self._data.failure(h, rows[h.slide_id]["reason"]) for h in failed]
        text = f"{len(done)} of {len(names)} slides have their features"
        shard = self._data.shard
        if shard is not None:
            tables = [shard._replace(number=n + 1).table for n in range(shard.parts)]
            whole = join_tables(self.folder, tables, self._data.names)
            text = f"shard {shard}: {text}"
            text += f"; all {shard.parts} shards are in {TABLE}" if whole else ""
        rich.get_console().print(text, soft_wrap=True, highlight=False, markup=False)
        if not self._data.continues:
            settle(problems, self._data.bad_data)


def wait_for_rows(table: ExtractionTable, names: Collection[str], pause: float = 0.5) -> None:
    """Wait until a table has rows of all slides, which several processes write.

    A collective operation in its place would give up after half an hour, and one process can have
    hours more to do than another (A664).

    Args:
        table: the table.
        names: the slides.
        pause: seconds between two looks.

    Raises:
        RuntimeError: the process that started this one has ended.
    """
    parent = os.getppid()
    while not table.read().keys() >= set(names):
        if os.getppid() != parent:
            raise RuntimeError("the process that started this one has ended")
        time.sleep(pause)


def _what_is_wrong(outputs: Tensor, batch: PatchBatch) -> str:
    values = outputs.float().cpu()
    bad = ~torch.isfinite(values.half())
    *version, patch, feature = bad.nonzero()[0].tolist()
    value = float(values[(*version, patch, feature)])
    x, y = batch.coords[patch].tolist()
    finite = math.isfinite(value)
    what = f"beyond {LARGEST:g}, the largest number of half precision" if finite else "not finite"
    return (
        f"feature {feature} of the patch at ({x}, {y}) is {value:g}, {what}; check the encoder and "
        "its weights, or use trainer.precision 32-true"
    )


def _decides(trainer: pl.Trainer) -> bool:
    """Return whether this process may say how the run ended.

    Processes wait for none while they work. At the end, one that has started the others waits for
    them, since their work belongs to its command; processes of a launcher do not.  # A523
    """
    started = getattr(trainer.strategy.launcher, "procs", [])
    for process in started:
        process.wait()
    environment = getattr(trainer.strategy, "cluster_environment", None)
    child = isinstance(environment, LightningEnvironment) and not trainer.is_global_zero
    return not child
