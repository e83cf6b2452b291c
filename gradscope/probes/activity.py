"""What the activations give out: moments, zeros, saturation."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from gradscope import stats
from gradscope.activations import RECTIFIER, SATURATING, SELF_NORMALIZING, Activation
from gradscope.probes.layout import Layout
from gradscope.probes.probe import NONFINITE, Measured, Merging, Pending, Probe, flagged, sum_by_layer
from gradscope.records import Float64s, Floats, Mask, Metric, NonFinite
from gradscope.thresholds import Thresholds

SAMPLE = 2**12
"""Elements of an output from which moments and fractions are estimated: 16 kB. Were they independent, the standard
error of a mean would be 1.6 % of the standard deviation, that of a fraction at most 0.8 %."""


class _Observation(NamedTuple):
    """What was kept of an output until the end of the step: a sample of its elements."""

    row: int
    activation: Activation
    sample: Tensor


class _Reduced(NamedTuple):
    """Samples of the same size and kind of activation, reduced together on the device, a number for each of `rows`.

    `counts` are the elements above zero of rectifiers, the saturated ones of bounded activations.
    """

    rows: list[int]
    elements: int
    kind: str
    totals: Tensor
    squares: Tensor
    counts: Tensor | None


class ActivityProbe(Probe):
    """Measures the outputs of activations over all batches of the step.

    `act_mean` and `act_var` (population variance) of every activation, `zero_fraction` of rectifiers,
    `saturated_fraction` of bounded ones: outputs within 1 % of a limit. From about 2^12 evenly spread elements of each
    output, copied when it is seen and reduced together with those of the other layers, since it is the number of
    kernels that costs; from all elements, at once, where exactness is asked for.
    """

    def __init__(self, thresholds: Thresholds, exact: bool = False) -> None:
        super().__init__(thresholds)
        self._exact = exact
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
        self._reduced: list[_Reduced] = []

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return self._metrics

    def observe(self, row: int, activation: Activation, output: Tensor, producer: nn.Module | None) -> None:
        if self._exact:
            self._reduced.append(_reduced([row], activation, output.reshape(1, -1)))
        else:
            self._observations.append(_Observation(row, activation, stats.sample(output, SAMPLE).clone()))

    def merging(self) -> Merging:
        return _ActivityOfRanks()

    def share(self, layout: Layout) -> Tensor:
        self._reduce()
        return _shared(self._reduced, layout)

    def _reduce(self) -> None:
        self._reduced += _together(self._observations)
        self._observations = []

    def finish(self, layers: int) -> Pending:
        self._reduce()
        parts = self._reduced
        self.forget()

        def resolve(copy: Floats) -> Measured:
            seen = _on_host(parts, copy.astype(np.float64))
            mean, variance = _merged(seen, layers)
            bad = ~np.isfinite(seen.totals + seen.squares)
            return Measured(
                {
                    "act_mean": mean.astype(np.float32),
                    "act_var": variance.astype(np.float32),
                    "zero_fraction": 1 - _share(seen, seen.rectifier, layers),
                    "saturated_fraction": _share(seen, seen.saturating, layers),
                    NONFINITE.name: flagged(seen.rows, bad, NonFinite.OUTPUT, layers),
                }
            )

        return Pending([t for p in parts for t in (p.totals, p.squares, p.counts) if t is not None], resolve)

    def forget(self) -> None:
        self._observations, self._reduced = [], []


def _together(observations: Sequence[_Observation]) -> Iterator[_Reduced]:
    alike: dict[object, list[_Observation]] = {}
    for o in observations:
        alike.setdefault((o.sample.shape, o.sample.dtype, o.sample.device, o.activation), []).append(o)
    for group in alike.values():
        yield _reduced([o.row for o in group], group[0].activation, torch.stack([o.sample for o in group]).flatten(1))


def _reduced(rows: list[int], activation: Activation, samples: Tensor) -> _Reduced:
    counts = None
    if activation.limits is not None:
        counts = stats.saturated_counts(samples, activation.limits)
    elif activation.kind == RECTIFIER:
        counts = stats.positive_counts(samples)
    return _Reduced(rows, samples.shape[1], activation.kind, *stats.moments(samples), counts)


class _Seen(NamedTuple):
    """All outputs of a step on the host, one entry for each: int64[n], float64[n], bool[n]."""

    rows: npt.NDArray[np.int64]
    elements: Float64s
    totals: Float64s
    squares: Float64s
    counts: Float64s
    rectifier: Mask
    saturating: Mask


def _on_host(parts: Sequence[_Reduced], copy: Float64s) -> _Seen:
    sizes = np.array([len(p.rows) for p in parts], dtype=np.int64)
    columns: list[list[Float64s]] = [[np.empty(0)], [np.empty(0)], [np.empty(0)]]
    for part, size in zip(parts, sizes, strict=True):
        for column, tensor in zip(columns, (part.totals, part.squares, part.counts), strict=True):
            column.append(copy[:size] if tensor is not None else np.full(size, np.nan))
            copy = copy[size:] if tensor is not None else copy
    kinds = np.repeat(np.array([p.kind for p in parts], dtype=object), sizes)
    totals, squares, counts = (np.concatenate(column) for column in columns)
    counts[np.isnan(totals)] = np.nan  # a NaN is neither zero nor above it
    return _Seen(
        np.array([row for p in parts for row in p.rows], dtype=np.int64),
        np.repeat(np.array([p.elements for p in parts], dtype=np.float64), sizes),
        totals,
        squares,
        counts,
        kinds == RECTIFIER,
        kinds == SATURATING,
    )


def _merged(seen: _Seen, layers: int) -> tuple[Float64s, Float64s]:
    """Mean and variance of each layer over all its outputs: float64[layers], NaN without any.

    Chan, Golub and LeVeque, "Algorithms for computing the sample variance" (1983): the variance within the parts
    and that between their means.
    """
    elements = sum_by_layer(seen.rows, seen.elements, layers)
    mean = sum_by_layer(seen.rows, seen.totals, layers) / elements
    between = seen.elements * (seen.totals / seen.elements - mean[seen.rows]) ** 2
    return mean, sum_by_layer(seen.rows, seen.squares + between, layers) / elements


def _share(seen: _Seen, ours: Mask, layers: int) -> Floats:
    if not ours.any():
        return np.full(layers, np.nan, dtype=np.float32)
    counts = sum_by_layer(seen.rows[ours], seen.counts[ours], layers)
    return (counts / sum_by_layer(seen.rows[ours], seen.elements[ours], layers)).astype(np.float32)


def _shared(parts: Sequence[_Reduced], layout: Layout) -> Tensor:
    """Elements, sums, sums of squares and counts of each of the layout's rows: float64[4 * rows]."""
    device = parts[0].totals.device if parts else torch.device("cpu")
    numbers = torch.zeros(4, len(layout.rows), dtype=torch.float64, device=device)
    place = {int(row): i for i, row in enumerate(layout.rows)}
    for part in parts:
        known = [i for i, row in enumerate(part.rows) if row in place]
        totals, squares = part.totals[known].double(), part.squares[known].double()
        counts = torch.zeros_like(totals) if part.counts is None else part.counts[known].double()
        elements = torch.full_like(totals, part.elements)
        columns = torch.stack((elements, totals, squares + totals.square() / part.elements, counts))
        places = torch.tensor([place[part.rows[i]] for i in known], dtype=torch.int64, device=device)
        numbers.index_add_(1, places, columns)
    return numbers.view(-1)


class _ActivityOfRanks(Merging):
    """Merges moments and fractions: every rank adds the sums over its own elements."""

    def size(self, layout: Layout) -> int:
        return 4 * len(layout.rows)

    def measured(self, layout: Layout, sums: Float64s, layers: int) -> Measured:
        elements, totals, squares, counts = sums.reshape(4, -1)
        kinds = np.array(layout.kinds, dtype=object)
        with np.errstate(divide="ignore", invalid="ignore"):  # a row that ran on no rank has no elements: NaN
            means = totals / elements
            variances = np.maximum(squares - totals * means, 0) / elements
            shares = np.where(np.isnan(totals), np.nan, counts) / elements
        bad = np.where(elements > 0, ~np.isfinite(totals + squares) * float(NonFinite.OUTPUT), np.nan)
        columns = {
            "act_mean": means,
            "act_var": variances,
            "zero_fraction": np.where(kinds == RECTIFIER, 1 - shares, np.nan),
            "saturated_fraction": np.where(kinds == SATURATING, shares, np.nan),
            NONFINITE.name: bad,
        }
        return Measured({name: _in_rows(layout, values, layers) for name, values in columns.items()})


def _in_rows(layout: Layout, values: Float64s, layers: int) -> Floats:
    column = np.full(layers, np.nan, dtype=np.float32)
    column[layout.rows] = values
    return column
