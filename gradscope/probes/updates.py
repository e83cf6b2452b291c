"""How far a step moves the weights, relative to their size."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradscope import stats
from gradscope.probes.probe import NONFINITE, Measured, OwnedParameter, Pending, Probe, flagged, joined, sum_by_layer
from gradscope.records import Floats, Metric, NonFinite
from gradscope.thresholds import Thresholds

WEIGHT_NORM = Metric("weight_norm", "weight norm", "L2 norm")
"""L2 norm over the layer's own trainable parameters, before the step."""

UPDATE_RATIO = Metric("update_ratio", "update ratio", "ratio")
"""‖Δw‖ / ‖w‖ of the layer's own trainable parameters, measured across the optimizer's step, whatever the optimizer;
Δw from about 1,024 evenly spread elements of each tensor. NaN where the weights are all zero before the step, or
where the optimizer did not step. Karpathy's rule of thumb is 1e-3."""


class _Weights(NamedTuple):
    """Weights as they are before a step: their norms, and a copy of a sample of their elements."""

    rows: npt.NDArray[np.int64]
    norms: Tensor
    samples: list[Tensor]
    scale: npt.NDArray[np.float64]


class _Moved(NamedTuple):
    """What came of them: the norms of the change of each sample."""

    weights: _Weights
    norms: Tensor


class UpdateProbe(Probe):
    """Measures `weight_norm` and `update_ratio`."""

    def __init__(self, thresholds: Thresholds) -> None:
        super().__init__(thresholds)
        self._before: dict[int, _Weights] = {}
        self._moved: dict[int, _Moved] = {}

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return WEIGHT_NORM, UPDATE_RATIO, NONFINITE

    def before_optimizer_step(self, optimizer: int, parameters: Sequence[OwnedParameter]) -> None:
        if optimizer in self._before and optimizer not in self._moved:
            return  # the closure is evaluated again within the same step: the weights of the first time count
        owned = [(row, p) for row, p in parameters if row >= 0 and p.requires_grad]
        samples = [stats.sample(weight).detach().clone() for _, weight in owned]
        self._moved.pop(optimizer, None)
        self._before[optimizer] = _Weights(
            np.array([row for row, _ in owned], dtype=np.int64),
            stats.l2_norms([weight for _, weight in owned]),
            samples,
            np.array([w.numel() / max(s.numel(), 1) for (_, w), s in zip(owned, samples, strict=True)]),
        )

    def after_optimizer_step(self, optimizer: int, parameters: Sequence[OwnedParameter]) -> None:
        if optimizer not in self._before:
            return  # a step that nobody announced: what the weights were before is not known
        weights = self._before[optimizer]
        new = [stats.sample(p) for row, p in parameters if row >= 0 and p.requires_grad]
        with torch.no_grad():
            change = torch._foreach_sub(new, weights.samples) if new else []
        self._moved[optimizer] = _Moved(weights, stats.l2_norms(change))

    def finish(self, layers: int) -> Pending:
        before, moved = list(self._before.values()), list(self._moved.values())
        self._before, self._moved = {}, {}

        def resolve(copy: Floats) -> Measured:
            squares = copy.astype(np.float64) ** 2
            rows, moved_rows = joined([w.rows for w in before]), joined([m.weights.rows for m in moved])
            norms, changes = squares[: len(rows)], squares[len(rows) :]
            scale = np.concatenate([np.empty(0), *(m.weights.scale for m in moved)])
            weight = sum_by_layer(rows, norms, layers)
            change = sum_by_layer(moved_rows, changes * scale, layers)
            return Measured(
                {
                    WEIGHT_NORM.name: np.sqrt(weight).astype(np.float32),
                    UPDATE_RATIO.name: np.sqrt(change / np.where(weight == 0, np.nan, weight)).astype(np.float32),
                    NONFINITE.name: flagged(rows, ~np.isfinite(norms), NonFinite.WEIGHT, layers),
                }
            )

        return Pending([*(w.norms for w in before), *(m.norms for m in moved)], resolve)
