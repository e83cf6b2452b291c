"""Gradient norms of layers, before clipping and as the optimizer saw them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from gradscope import stats
from gradscope.probes.probe import NONFINITE, Measured, OwnedParameter, Pending, Probe, flagged, joined, sum_by_layer
from gradscope.records import (
    CLIP_COEFFICIENT,
    SKIPPED,
    TOTAL_NORM,
    TOTAL_NORM_CLIPPED,
    Floats,
    Metric,
    NonFinite,
)
from gradscope.thresholds import Thresholds

GRAD_NORM = Metric("grad_norm", "gradient norm", "L2 norm")
"""L2 norm over the layer's own parameters, unscaled, before clipping."""

GRAD_NORM_CLIPPED = Metric("grad_norm_clipped", "gradient norm after clipping", "L2 norm")
"""The same as the optimizer saw it; NaN where the optimizer did not step."""

NO_GRADIENT_FRACTION = Metric("no_gradient_fraction", "parameters without gradient", "fraction")
"""Share of the layer's trainable parameter tensors whose gradient is None or exactly zero; NaN where none is
trainable, which tells what is cut off from what was frozen on purpose."""


class _Norms(NamedTuple):
    """L2 norms on the device and the rows they belong to; `trainable` are the rows of all trainable parameters."""

    rows: npt.NDArray[np.int64]
    norms: Tensor
    trainable: npt.NDArray[np.int64]


class GradientProbe(Probe):
    """Measures what `metrics` lists, and the total norms and the clip coefficient of the step."""

    def __init__(self, thresholds: Thresholds) -> None:
        super().__init__(thresholds)
        # By optimizer: LBFGS evaluates its closure several times within one step, and the last one counts.
        self._before: dict[int, _Norms] = {}
        self._after: dict[int, _Norms] = {}

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return GRAD_NORM, GRAD_NORM_CLIPPED, NO_GRADIENT_FRACTION, NONFINITE

    def before_optimizer_step(self, optimizer: int, parameters: Sequence[OwnedParameter]) -> None:
        self._before[optimizer] = _measure(parameters)
        self._after.pop(optimizer, None)

    def after_optimizer_step(self, optimizer: int, parameters: Sequence[OwnedParameter]) -> None:
        self._after[optimizer] = _measure(parameters)

    def finish(self, layers: int) -> Pending:
        skipped = not self._before.keys() <= self._after.keys()
        before, after = list(self._before.values()), list(self._after.values())
        self._before, self._after = {}, {}

        def resolve(copy: Floats) -> Measured:
            split = sum(len(n.rows) for n in before)
            first, last = _Gradients(before, copy[:split], layers), _Gradients(after, copy[split:], layers)
            return Measured(
                {
                    GRAD_NORM.name: first.norms(),
                    GRAD_NORM_CLIPPED.name: last.norms(),
                    NO_GRADIENT_FRACTION.name: first.missing(),
                    NONFINITE.name: first.nonfinite(),
                },
                _totals(first, last, skipped),
            )

        return Pending([n.norms for n in (*before, *after)], resolve)


class _Gradients:
    """The copied norms of one moment of the step, by layer."""

    def __init__(self, parts: Sequence[_Norms], copy: Floats, layers: int) -> None:
        self.rows = joined(n.rows for n in parts)
        self.trainable = joined(n.trainable for n in parts)
        self.squares = copy.astype(np.float64) ** 2
        self.layers = layers

    def norms(self) -> Floats:
        return np.sqrt(sum_by_layer(self.rows, self.squares, self.layers)).astype(np.float32)

    def total(self) -> float:
        return float(np.sqrt(self.squares.sum()))

    def missing(self) -> Floats:
        trainable = sum_by_layer(self.trainable, np.ones(len(self.trainable)), self.layers)
        alive = sum_by_layer(self.rows, (self.squares != 0).astype(np.float64), self.layers)
        return (1 - np.nan_to_num(alive) / trainable).astype(np.float32)

    def nonfinite(self) -> Floats:
        return flagged(self.rows, ~np.isfinite(self.squares), NonFinite.GRADIENT, self.layers)


def _measure(parameters: Sequence[OwnedParameter]) -> _Norms:
    gradients = [(row, p.grad) for row, p in parameters if p.grad is not None]
    return _Norms(
        np.array([row for row, _ in gradients], dtype=np.int64),
        stats.l2_norms([gradient for _, gradient in gradients]),
        np.array([row for row, p in parameters if p.requires_grad], dtype=np.int64),
    )


def _totals(first: _Gradients, last: _Gradients, skipped: bool) -> dict[str, float]:
    if not len(first.rows):
        return {}
    totals = {TOTAL_NORM: first.total(), SKIPPED: float(skipped)}
    if not skipped:
        totals[TOTAL_NORM_CLIPPED] = last.total()
        if 0 < totals[TOTAL_NORM] < np.inf:
            totals[CLIP_COEFFICIENT] = totals[TOTAL_NORM_CLIPPED] / totals[TOTAL_NORM]
    return totals
