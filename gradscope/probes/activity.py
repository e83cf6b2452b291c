"""What the activations give out: moments, zeros, saturation."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from gradscope import stats
from gradscope.activations import RECTIFIER, SATURATING, SELF_NORMALIZING, Activation
from gradscope.probes.probe import NONFINITE, Measured, Pending, Probe, flagged, sum_by_layer
from gradscope.records import Floats, Metric, NonFinite
from gradscope.thresholds import Thresholds

Float64s = npt.NDArray[np.float64]


class _Observation(NamedTuple):
    """One output, reduced on the device: `share` is that of elements above zero, or of saturated ones."""

    row: int
    elements: int
    kind: str
    mean: Tensor
    variance: Tensor
    share: Tensor | None


class ActivityProbe(Probe):
    """Measures the outputs of activations over all batches of the step.

    `act_mean` and `act_var` (population variance) of every activation, `zero_fraction` of rectifiers,
    `saturated_fraction` of bounded ones: outputs within 1 % of a limit. From about 2^18 evenly spread elements of
    each output, or all where there are fewer.
    """

    def __init__(self, thresholds: Thresholds) -> None:
        super().__init__(thresholds)
        self._metrics = (
            Metric("act_mean", "activation mean", "value", {SELF_NORMALIZING: thresholds.selu_mean}),
            Metric("act_var", "activation variance", "value", {SELF_NORMALIZING: thresholds.selu_variance}),
            Metric("zero_fraction", "zero outputs", "fraction"),
            Metric(
                "saturated_fraction", "saturated outputs", "fraction", {SATURATING: (0, thresholds.saturated_fraction)}
            ),
            NONFINITE,
        )
        self._observations: list[_Observation] = []

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return self._metrics

    def observe(self, row: int, activation: Activation, output: Tensor, producer: nn.Module | None) -> None:
        x = stats.subsample(output)
        share = None
        if activation.limits is not None:
            share = stats.saturated_fraction(x, activation.limits)
        elif activation.kind == RECTIFIER:
            share = stats.positive_fraction(x)
        self._observations.append(_Observation(row, x.numel(), activation.kind, *stats.mean_and_variance(x), share))

    def finish(self, layers: int) -> Pending:
        seen, self._observations = self._observations, []
        shared = [o for o in seen if o.share is not None]

        def resolve(copy: Floats) -> Measured:
            values = copy.astype(np.float64)
            moments, shares = values[: 2 * len(seen)].reshape(2, -1).T, values[2 * len(seen) :]
            mean, variance = _merged(seen, moments, layers)
            rows = np.array([o.row for o in seen], dtype=np.int64)
            return Measured(
                {
                    "act_mean": mean.astype(np.float32),
                    "act_var": variance.astype(np.float32),
                    "zero_fraction": 1 - _share(RECTIFIER, shared, shares, layers),
                    "saturated_fraction": _share(SATURATING, shared, shares, layers),
                    NONFINITE.name: flagged(rows, ~np.isfinite(moments.sum(axis=1)), NonFinite.OUTPUT, layers),
                }
            )

        numbers = [o.mean for o in seen] + [o.variance for o in seen] + [o.share for o in shared if o.share is not None]
        return Pending([torch.stack(numbers)] if numbers else [], resolve)


def _merged(seen: Sequence[_Observation], moments: Float64s, layers: int) -> tuple[Float64s, Float64s]:
    """Mean and variance of each layer over all its observations: float64[layers], NaN without any.

    Chan, Golub and LeVeque, "Algorithms for computing the sample variance" (1983): the variance within the parts
    and that between their means.
    """
    rows = np.array([o.row for o in seen], dtype=np.int64)
    counts = np.array([o.elements for o in seen], dtype=np.float64)
    means, variances = moments[:, 0], moments[:, 1]
    total = sum_by_layer(rows, counts, layers)
    mean = sum_by_layer(rows, counts * means, layers) / total
    variance = sum_by_layer(rows, counts * (variances + (means - mean[rows]) ** 2), layers) / total
    return mean, variance


def _share(kind: str, shared: Sequence[_Observation], shares: Float64s, layers: int) -> Floats:
    ours = np.array([o.kind == kind for o in shared], dtype=bool)
    rows = np.array([o.row for o in shared], dtype=np.int64)[ours]
    counts = np.array([o.elements for o in shared], dtype=np.float64)[ours]
    return (sum_by_layer(rows, counts * shares[ours], layers) / sum_by_layer(rows, counts, layers)).astype(np.float32)
