"""A run of very many records: memory, the time of a record, the log and the findings have to stay what they were.

    python benchmarks/soak.py                                   # 200,000 records: a quarter of an hour
    python benchmarks/soak.py --records 20000 --log runs/soak   # the log stays
    python benchmarks/soak.py --records 20000 --sick            # a net of dead ReLUs: what is found must not pile up

Trains a small net of four layers, records every step of it and logs all there is to log to TensorBoard. A row is a
tenth of the run. The time of a record is that of a whole step beyond the median of a step without GradScope; the
memory is that of the process at the end of the row. Then the log is read as its users would.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
from interleave import Spread, measure
from nets import Repeat, Residual, Training, quiet_lightning, residual_mlp
from pytorch_lightning.loggers import TensorBoardLogger
from rich.table import Table
from scaling import resident_mebibytes
from tab import tensorboard
from tables import milliseconds, show, table
from torch import nn
from torch.utils.data import DataLoader

from gradscope import GradScope

PARTS = 10
ROUTES = ("runs", "matrix?run=run&metric=grad_norm&records=250", "matrix?run=run&metric=grad_norm", "summary?run=run")
TINY = residual_mlp(layers=4, width=16, batch=16)


def dead() -> nn.Module:
    """Return the same net with biases so far below zero that no ReLU of it ever fires."""
    net = TINY.build()
    for layer in net.modules():
        if isinstance(layer, Residual):
            nn.init.constant_(layer.linear.bias, -100.0)
    return net


class Part(NamedTuple):
    """A tenth of the run, as it was when it ended."""

    last: int
    step: Spread
    mebibytes: float
    log_bytes: int
    findings: int


class Odometer(pl.Callback):
    """Takes the time of each step; at the end of each part weighs the process and its log, and counts the findings."""

    def __init__(self, scope: GradScope, length: int) -> None:
        self.parts: list[Part] = []
        self._scope, self._length = scope, length
        self._times = np.zeros(length + 1)  # of one part: those of all would be weighed with the rest
        self._at = 0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        self._times[self._at] = time.perf_counter()
        self._at += 1
        if self._at > self._length:
            self._end(trainer, args[1])
            self._times[0], self._at = time.perf_counter(), 1

    def _end(self, trainer: pl.Trainer, step: int) -> None:
        step_times = [float(b - a) for a, b in pairwise(self._times)]
        findings = len(self._scope.findings)
        for logger in trainer.loggers:
            logger.save()
        log = sum(path.stat().st_size for path in Path(str(trainer.log_dir)).glob("*tfevents*"))
        self.parts.append(Part(step, Spread.of(step_times), resident_mebibytes(), log, findings))
        print(self.parts[-1], file=sys.stderr, flush=True)  # it takes long, and may be interrupted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=200_000, help="(default: %(default)s)")
    parser.add_argument("--log", metavar="DIR", help="where to write, and leave, the log (default: nowhere for long)")
    parser.add_argument("--sick", action="store_true", help="train a net in which there is something to find")
    options = parser.parse_args()
    quiet_lightning()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(options.log or folder)
        show(of_fit(options.records, log, dead() if options.sick else TINY.build()))
        show(of_readers(log, options.records))


def of_fit(records: int, log: Path, net: nn.Module) -> Table:
    plain = measure(TINY, 20).plain.median
    filled = table(f"{records:,} records ({TINY.name}; a plain step takes {plain * 1e3:.2f} ms)",
                   "to step", "a record, ms", "memory, MiB", "of the second row", "log, MB", "bytes a record",
                   "findings")  # fmt: skip
    parts = fit(records, log, net)
    for before, part in pairwise([Part(0, parts[0].step, 0.0, 0, 0), *parts]):
        extra = Spread(*(seconds - plain for seconds in part.step))
        weight = f"{part.mebibytes / parts[1].mebibytes - 1:+.2%}"
        each = (part.log_bytes - before.log_bytes) / (part.last - before.last)
        filled.add_row(f"{part.last:,}", milliseconds(extra), f"{part.mebibytes:.1f}", weight,
                       f"{part.log_bytes / 1e6:.1f}", f"{each:,.1f}", str(part.findings))  # fmt: skip
    return filled


def fit(records: int, log: Path, net: nn.Module) -> list[Part]:
    inputs = TINY.inputs()
    batch = inputs, inputs[:, :10].argmax(1)
    scope = GradScope(every_n_steps=1, summary=False)
    odometer = Odometer(scope, records // PARTS)
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_epochs=1, callbacks=[odometer, scope], enable_checkpointing=False,
        logger=TensorBoardLogger(log, name="", version="run"), enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Training(net), DataLoader(Repeat(batch, records + 1), batch_size=None))
    return odometer.parts


def of_readers(log: Path, last_step: int) -> Table:
    """Return how long it takes to look at the log: the first time, and the median of three more."""
    filled = table("Reading it", "what", "first, s", "again, s")
    command = [sys.executable, "-m", "gradscope", "summary", str(log)]
    add(
        filled,
        "gradscope summary, a process of its own",
        partial(subprocess.run, command, check=True, capture_output=True),
    )
    with tensorboard(log, 1) as address:
        place = f"{address}/data/plugin/gradscope"
        while json.loads(asked(f"{place}/runs"))["runs"][0]["last_step"] < last_step:
            time.sleep(0.5)
        for route in ROUTES:
            add(filled, f"the tab asks for /{route}", partial(asked, f"{place}/{route}"))
    return filled


def add(filled: Table, what: str, act: Callable[[], object]) -> None:
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - began)
    filled.add_row(what, f"{seconds[0]:.3f}", f"{statistics.median(seconds[1:]):.3f}")


def asked(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=600) as answer:
        content: bytes = answer.read()
        return content


if __name__ == "__main__":
    main()
