"""A part of a run: some of its layers, some of its records."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from gradscope.patterns import NamePatterns
from gradscope.records import Run


def selected(run: Run, patterns: NamePatterns, first_step: int | None = None, last_step: int | None = None) -> Run:
    """Return `run` with only the layers whose names the `patterns` choose and the records within the steps.

    Both ends belong to the range; None leaves it open. What the run knows about itself stays that of all of it.
    """
    layers = np.array([i for i, layer in enumerate(run.layers) if patterns(layer.name)], dtype=np.int64)
    part = with_records(run, _within(run.steps, first_step, last_step))
    return replace(
        part,
        layers=tuple(run.layers[i] for i in layers),
        metrics={name: values[:, layers] for name, values in part.metrics.items()},
    )


def with_records(run: Run, records: npt.NDArray[np.int64] | slice) -> Run:
    """Return `run` with only the `records`: their indices in ascending order, or a slice."""
    return replace(
        run,
        steps=run.steps[records],
        wall_times=run.wall_times[records],
        metrics={name: values[records] for name, values in run.metrics.items()},
        globals={name: values[records] for name, values in run.globals.items()},
    )


def _within(steps: npt.NDArray[np.int64], first: int | None, last: int | None) -> npt.NDArray[np.int64]:
    inside = np.ones(len(steps), dtype=np.bool_)
    if first is not None:
        inside &= steps >= first
    if last is not None:
        inside &= steps <= last
    return np.flatnonzero(inside)
