"""How the cost grows: with the number of layers, with the size of the batch, and with the length of the run."""

import os
import statistics
import time
from array import array
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
from interleave import RECORDED, SETTLING, Spread, measure
from nets import fit, residual_mlp
from rich.table import Table
from tables import milliseconds, table

from gradscope import GradScope

LAYERS = (10, 30, 100, 300, 1000)
BATCHES = (32, 256, 1024, 4096)
TINY = residual_mlp(layers=4, width=16, batch=16)


def by_layers(steps: int) -> Table:
    filled = table("By the number of dense layers (width 16, batch 16, a ReLU after each)",
                   "layers", "plain step, ms", "a record, ms", "for each layer")  # fmt: skip
    extras = []
    for layers in LAYERS:
        cost = measure(residual_mlp(layers, width=16, batch=16), steps)
        extra = cost.extra[RECORDED]
        extras.append(extra.median)
        each = f"{extra.median / layers * 1e6:.0f} µs"
        filled.add_row(f"{layers:,}", f"{cost.plain.median * 1e3:.1f}", milliseconds(extra), each)
    slope, intercept = statistics.linear_regression(LAYERS, extras)
    fitness = statistics.correlation(LAYERS, extras) ** 2
    filled.caption = f"least squares: {intercept * 1e3:.2f} ms + {slope * 1e6:.0f} µs a layer, R² = {fitness:.4f}"
    return filled


def by_batch(steps: int) -> Table:
    columns = ("plain step, ms", "a record, ms", "of a plain step")
    filled = table("By the size of the batch (10 dense layers, width 64)", "batch", *columns)
    for batch in BATCHES:
        cost = measure(residual_mlp(layers=10, width=64, batch=batch), steps)
        extra = cost.extra[RECORDED]
        share = f"{extra.median / cost.plain.median:+.1%}"
        filled.add_row(f"{batch:,}", f"{cost.plain.median * 1e3:.1f}", milliseconds(extra), share)
    return filled


def by_length(records: int) -> Table:
    plain = measure(TINY, 20).plain.median
    filled = table(f"By the length of the run ({TINY.name}; a plain step takes {plain * 1e3:.2f} ms)",
                   "records", "a record, ms", "on average", "memory of the process")  # fmt: skip
    for part in _parts_of_a_long_run(records):
        extra = Spread(*(s - plain for s in part.seconds))
        mean = f"{(part.mean - plain) * 1e3:+.2f}"
        filled.add_row(f"{part.first:,} to {part.last:,}", milliseconds(extra), mean, f"{part.mebibytes:.0f} MiB")
    filled.caption = "the average counts what is done now and then: verdicts, and thinning out old records"
    return filled


class _Part(NamedTuple):
    """Some steps in a row: the seconds of a step, and the memory of the process when the last one was over."""

    first: int
    last: int
    seconds: Spread
    mean: float
    mebibytes: float


class _Odometer(pl.Callback):
    """Takes the time of each step, and the memory at the start of some."""

    def __init__(self, weigh_at: set[int]) -> None:
        self.times = array("d")  # a list of floats would take the memory that is measured here
        self.mebibytes: dict[int, float] = {}
        self._weigh_at = weigh_at

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        self.times.append(time.perf_counter())
        if args[1] in self._weigh_at:
            self.mebibytes[args[1]] = resident_mebibytes()


def _parts_of_a_long_run(records: int) -> Iterator[_Part]:
    """The first tenth of a run in which every step is recorded, one in the middle, the last."""
    length = max(records // 10, 2)
    starts = (SETTLING, SETTLING + (records - length) // 2, SETTLING + records - length)
    odometer = _Odometer({start + length for start in starts})
    fit(TINY, SETTLING + records + 1, [odometer, GradScope(every_n_steps=1, summary=False)])
    for start in starts:
        times = odometer.times[start : start + length + 1]
        seconds = [b - a for a, b in pairwise(times)]
        mebibytes = odometer.mebibytes[start + length]
        yield _Part(start, start + length, Spread.of(seconds), statistics.mean(seconds), mebibytes)


def resident_mebibytes() -> float:
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return float("nan")  # only Linux tells it without a further package
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
