"""A run as tidy data: a row for each number that was measured, in order of steps, layers and metrics."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gradscope.cells import measured_cells
from gradscope.patterns import NamePatterns
from gradscope.records import GLOBALS, LOSS, NONFINITE_LOSS, Layer, Run
from gradscope.selection import with_records

FIELDS = ("run", "step", "wall_time", "layer", "type", "kind", "metric", "value")
"""The columns of a row: string, int64, float64, four strings, and float64."""

NO_LAYER = Layer("", "", "")
"""What stands for the whole net in rows of `gradscope.records.GLOBALS`."""

BLOCK = 65_536
"""Cells that are looked at in one go."""


@dataclass(frozen=True)
class Choice:
    """Which rows: of these metrics, and of the layers that these patterns choose (`NamePatterns`); empty means all."""

    metrics: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()

    def takes_metric(self, name: str) -> bool:
        """Say whether the metric or global `name` is among them."""
        return not self.metrics or name in self.metrics

    def takes_layer(self, name: str) -> bool:
        """Say whether the layer `name` is among them."""
        return NamePatterns(self.layers)(name)


class Rows(NamedTuple):
    """Some rows of a run, N of them: `layers` and `metrics` are indices into what the run's table lists."""

    steps: npt.NDArray[np.int64]
    wall_times: npt.NDArray[np.float64]
    layers: npt.NDArray[np.int32]
    metrics: npt.NDArray[np.int32]
    values: npt.NDArray[np.float64]


ALL = Choice()


class Table:
    """The rows of `run`, a block after the other.

    A number that was not measured has no row; one that was and is NaN has a row with NaN.
    """

    def __init__(self, run: Run, choice: Choice = ALL) -> None:
        self.run = run
        self.layers: tuple[Layer, ...] = (NO_LAYER, *run.layers)
        """What the index of a layer stands for."""
        self.metrics = tuple(filter(choice.takes_metric, names_of(run)))
        """What the index of a metric stands for: globals, then metrics of layers."""
        self._chosen = np.array([i for i, layer in enumerate(self.layers) if choice.takes_layer(layer.name)], np.int32)

    def rows(self) -> Iterator[Rows]:
        """Yield the rows."""
        if not self.metrics or not len(self._chosen):
            return
        size = max(1, BLOCK // (len(self.metrics) * len(self._chosen)))
        for begin in range(0, len(self.run.steps), size):
            yield self._block(with_records(self.run, slice(begin, begin + size)))

    def _block(self, part: Run) -> Rows:
        columns = [self._column(part, metric) for metric in self.metrics]
        record, layer, metric = np.nonzero(np.stack([column.measured for column in columns], axis=-1))
        values = np.stack([column.values for column in columns], axis=-1)
        return Rows(
            part.steps[record],
            part.wall_times[record],
            self._chosen[layer],
            metric.astype(np.int32),
            values[record, layer, metric],
        )

    def _column(self, part: Run, metric: str) -> "_Column":
        values = np.full((len(part.steps), len(self.layers)), np.nan)
        measured = np.zeros(values.shape, dtype=bool)
        if metric in part.globals:
            values[:, 0] = part.globals[metric]
            measured[:, 0] = ~np.isnan(values[:, 0]) | ((metric == LOSS) & (part.series(NONFINITE_LOSS) == 1))
        if metric in part.metrics:
            values[:, 1:] = part.metrics[metric]
            measured[:, 1:] = ~np.isnan(measured_cells(part, metric))
        return _Column(values[:, self._chosen], measured[:, self._chosen])


class _Column(NamedTuple):
    """A metric of the chosen layers: [S, L] each."""

    values: npt.NDArray[np.float64]
    measured: npt.NDArray[np.bool_]


def names_of(run: Run) -> list[str]:
    """Return the names of all that `run` may have rows of: globals in their order, then the metrics in theirs."""
    return [*(name for name in GLOBALS if name in run.globals), *run.metrics]
