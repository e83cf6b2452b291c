"""What other callbacks can monitor: a few numbers of ours among the `callback_metrics` of a Trainer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from gradscope.events import stock
from gradscope.ranks.voices import Voices
from gradscope.records import SKIPPED, TOTAL_NORM, Finding, Metric, Record, Severity

if TYPE_CHECKING:
    import pytorch_lightning as pl  # of either package

TOTAL = f"gradscope/{TOTAL_NORM}"
CRITICAL_FINDINGS = "gradscope/critical_findings"
STATISTICS = ("gradscope/update_ratio/median", "gradscope/dead_fraction/max", "gradscope/saturated_fraction/max")
MONITORED = (TOTAL, *STATISTICS, CRITICAL_FINDINGS)
"""All of them: few, since Lightning's `log` would take a quarter of a millisecond for each."""

_METRICS = {tag.split("/")[1] for tag in STATISTICS}


class Monitored:
    """Keeps the newest of each number: what a record did not measure stays as it was.

    A number that was never measured is absent, so that whoever monitors it is told by Lightning which there are.
    """

    def __init__(self, columns: Sequence[Metric] = ()) -> None:
        self._columns = [column for column in columns if column.name in _METRICS]
        self._values = {CRITICAL_FINDINGS: 0.0}
        self.news = True
        """Whether there are numbers that were not shown yet."""
        self._first_step: int | None = None

    def hear(self, record: Record) -> None:
        """Take note of `record`; the norm of a step that a GradScaler skipped is no sign of anything."""
        curves = stock.scalars(record, self._columns)
        self._values |= {tag: curves[tag] for tag in STATISTICS if not math.isnan(curves.get(tag, math.nan))}
        if TOTAL in curves and record.globals.get(SKIPPED, 0) != 1:
            self._values[TOTAL] = curves[TOTAL]  # also a NaN: EarlyStopping knows what to do about it
        self.news = True

    def judge(self, findings: Sequence[Finding]) -> None:
        """Take note of what is found."""
        self._values[CRITICAL_FINDINGS] = float(sum(f.severity is Severity.CRITICAL for f in findings))
        self.news = True

    def fail(self) -> None:
        """Give NaN for what will not be measured any more: for what is absent Lightning ends the training."""
        self.news = self.news or len(self._values) < len(MONITORED)
        self._values = dict.fromkeys(MONITORED, math.nan) | self._values

    def is_looked_at(self, step: int, last: bool) -> bool:
        """Say whether others may look at the numbers after a batch of `step`: in the first step, and if it is `last`.

        It goes by the number of the step alone, so that all ranks say the same.
        """
        if self._first_step is None:
            self._first_step = step
        return last or step == self._first_step

    def show(self, trainer: pl.Trainer, looked_at: bool, voices: Voices | None = None) -> None:
        """Put the numbers where others look: at once, but of several ranks only where they are `looked_at`.

        Those have to be the same on all ranks, which therefore take what rank zero has: each of them has to ask.
        """
        values = self._values
        if voices is not None:
            if not looked_at:
                return
            values = voices.broadcast(values)
        elif not self.news:
            return
        self.news = False
        numbers = torch.tensor([*values.values()], dtype=torch.float32, device="cpu")  # one, for making it takes long
        trainer.callback_metrics.update(zip(values, numbers.unbind(), strict=True))
