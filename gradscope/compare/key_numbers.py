"""The few numbers by which experiments are set side by side."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradscope.records import LOSS, Run
from gradscope.rules.persistence import WEIGHT_LAYERS, median
from gradscope.summary import last_finite


@dataclass(frozen=True)
class KeyNumbers:
    """What a run came to; NaN where it was not measured."""

    last_loss: float
    lowest_loss: float
    gradient_range: float
    """The largest over the smallest of the weight layers' median gradient norms, at least 1; infinite where the
    smallest is 0."""
    dead_fraction: float
    """The worst of the rectifiers' last shares of dead units."""
    deadest_layer: str
    """Which one that is; empty where there is none."""
    update_ratio: float
    """The median over layers and records of ‖Δw‖ / ‖w‖."""
    records: int
    last_step: int | None
    seconds: float
    """Wall time from the first record to the last."""
    cost: float
    """The share of the fit that GradScope took on the host."""


def key_numbers(run: Run) -> KeyNumbers:
    """Return the key numbers of `run`, whatever it holds: an infinity or a NaN does not enter into them."""
    loss = run.series(LOSS)
    loss = loss[np.isfinite(loss)]
    dead = last_finite(run.metric("dead_fraction"))
    worst = int(np.nanargmax(dead)) if np.isfinite(dead).any() else None
    took = run.overhead
    return KeyNumbers(
        last_loss=float(loss[-1]) if loss.size else math.nan,
        lowest_loss=float(loss.min()) if loss.size else math.nan,
        gradient_range=_gradient_range(run),
        dead_fraction=float(dead[worst]) if worst is not None else math.nan,
        deadest_layer=run.layers[worst].name if worst is not None else "",
        update_ratio=_median(run.metric("update_ratio")),
        records=len(run.steps),
        last_step=int(run.steps[-1]) if len(run.steps) else None,
        seconds=float(run.wall_times[-1] - run.wall_times[0]) if len(run.steps) else math.nan,
        cost=took.gradscope_seconds / took.fit_seconds if took.fit_seconds > 0 else math.nan,
    )


def _gradient_range(run: Run) -> float:
    norms = run.metric("grad_norm")[:, run.rows(*WEIGHT_LAYERS)]
    typical = median(np.where(np.isfinite(norms), norms, np.nan))
    typical = typical[~np.isnan(typical)]
    if not typical.size or typical.max() == 0:
        return math.nan
    return float(typical.max() / typical.min()) if typical.min() > 0 else math.inf


def _median(values: npt.NDArray[np.float32]) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else math.nan
