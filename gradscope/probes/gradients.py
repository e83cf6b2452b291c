"""The ledger of a step: gradient norms before clipping and as the optimizer saw them, and whether it stepped."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from gradscope import stats
from gradscope.probes.probe import NONFINITE, Measured, Parameters, Pending, Probe, Step, flagged, joined, sum_by_layer
from gradscope.records import (
    CLIP_COEFFICIENT,
    LOSS_SCALE,
    SKIPPED,
    TOTAL_NORM,
    TOTAL_NORM_CLIPPED,
    Floats,
    Metric,
    NonFinite,
)
from gradscope.sharding import PARTIAL
from gradscope.thresholds import Thresholds

GRAD_NORM = Metric("grad_norm", "gradient norm", "L2 norm")
"""L2 norm over the layer's own parameters, unscaled, before clipping."""

GRAD_NORM_CLIPPED = Metric("grad_norm_clipped", "gradient norm after clipping", "L2 norm")
"""The same as the optimizer saw it; NaN where the optimizer did not step."""

NO_GRADIENT_FRACTION = Metric("no_gradient_fraction", "parameters without gradient", "fraction")
"""Share of the layer's trainable parameter tensors whose gradient is None or exactly zero; NaN where none is
trainable, which tells what is cut off from what was frozen on purpose."""


class _Norms(NamedTuple):
    """L2 norms on the device and the rows they belong to; `trainable` are the rows of all trainable parameters.

    `versions` tells whether the gradients have changed since: None where that is not known.
    """

    rows: npt.NDArray[np.int64]
    norms: Tensor
    trainable: npt.NDArray[np.int64]
    versions: list[tuple[int, int]] | None


class _Ledger(NamedTuple):
    """What one optimizer did in the step, as far as it is known: on the device, then (`on_host`) on the host."""

    backward: _Norms | None = None
    before: _Norms | None = None
    after: _Norms | None = None
    overflow: Tensor | None = None

    def tensors(self) -> list[Tensor]:
        """What has to be copied; gradients that were measured once for both moments stand in it once."""
        norms = [self.backward, self.before, None if self.after is self.before else self.after]
        return [n.norms for n in norms if n is not None] + ([] if self.overflow is None else [self.overflow])


class GradientProbe(Probe):
    """Measures what `metrics` lists; of the step the total norms, the clip coefficient, the loss scale, and skips.

    Before clipping means: as Lightning hands them to the optimizer's step; in manual optimization as the last
    backward left them, where they have only become smaller since.
    """

    def __init__(self, thresholds: Thresholds, exact: bool = False) -> None:
        super().__init__(thresholds)
        # By optimizer: LBFGS evaluates its closure several times within one step, and the last one counts.
        self._ledgers: dict[int, _Ledger] = {}
        self._backward: dict[int, _Norms] = {}
        self._loss_scale: list[Tensor] = []
        self._unmeasured: dict[int, str] = {}

    @property
    def unmeasured(self) -> Mapping[int, str]:
        return self._unmeasured

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return GRAD_NORM, GRAD_NORM_CLIPPED, NO_GRADIENT_FRACTION, NONFINITE

    def after_backward(self, step: Step) -> None:
        self._backward[step.optimizer] = _measure(step)

    def before_optimizer_step(self, step: Step) -> None:
        self._loss_scale = [] if step.loss_scale is None else [step.loss_scale]
        self._ledgers[step.optimizer] = _Ledger(self._backward.pop(step.optimizer, None), _measure(step))
        unsummed = step.parameters.rows[step.parameters.unsummed()]
        self._unmeasured.update((int(row), PARTIAL) for row in unsummed if row >= 0)

    def after_optimizer_step(self, step: Step) -> None:
        ledger = self._ledgers.get(step.optimizer, _Ledger())
        versions = _versions(step.parameters)
        same = step.untouched and ledger.before and versions is not None and ledger.before.versions == versions
        after = ledger.before if same else _measure(step)
        self._ledgers[step.optimizer] = ledger._replace(after=after, overflow=step.overflow)

    def finish(self, layers: int) -> Pending:
        ledgers, scale = list(self._ledgers.values()), self._loss_scale
        self._ledgers, self._backward, self._loss_scale = {}, {}, []

        def resolve(copy: Floats) -> Measured:
            scales = {LOSS_SCALE: float(copy[-1])} if scale else {}
            entries = [_Entry(ledger, part) for ledger, part in _split(ledgers, copy)]
            first = _Gradients([e.first for e in entries], layers)
            alike = all(e.last is e.first for e in entries)
            last = first if alike else _Gradients([e.last for e in entries], layers)
            return Measured(
                {
                    GRAD_NORM.name: first.norms(),
                    GRAD_NORM_CLIPPED.name: last.norms(),
                    NO_GRADIENT_FRACTION.name: first.missing(),
                    NONFINITE.name: first.nonfinite(),
                },
                _totals(first, last, any(e.skipped for e in entries)) | scales,
            )

        return Pending([t for ledger in ledgers for t in ledger.tensors()] + scale, resolve)


class _Copied(NamedTuple):
    """The squared norms of one optimizer at one moment, on the host."""

    rows: npt.NDArray[np.int64]
    trainable: npt.NDArray[np.int64]
    squares: npt.NDArray[np.float64]


_NOTHING = _Copied(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0))


class _Entry:
    """A ledger on the host: `first` is before clipping, `last` as the optimizer saw it."""

    def __init__(self, ledger: _Ledger, copy: Floats) -> None:
        backward, copy = _take(ledger.backward, copy)
        before, copy = _take(ledger.before, copy)
        after, copy = (before, copy) if ledger.after is ledger.before else _take(ledger.after, copy)
        self.skipped = ledger.after is None or bool((copy > 0).any())
        shrunk = ledger.backward is not None and before.squares.sum() < backward.squares.sum()
        self.first = backward if shrunk else before
        self.last = _NOTHING if self.skipped else after


class _Gradients:
    """The norms of all optimizers at one moment of the step, by layer."""

    def __init__(self, parts: Sequence[_Copied], layers: int) -> None:
        self.rows = joined(p.rows for p in parts)
        self.trainable = joined(p.trainable for p in parts)
        self.squares = np.concatenate([np.empty(0), *(p.squares for p in parts)])
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


def _measure(step: Step) -> _Norms:
    tensors, rows = step.parameters.tensors, step.parameters.rows
    gradients, unsummed = step.parameters.gradients(), step.parameters.unsummed()
    norms = stats.l2_norms([g for _, g in gradients])
    if step.scaled and step.loss_scale is not None:
        norms = norms / step.loss_scale
    trainable = rows[[i for i, p in enumerate(tensors) if p.requires_grad and i not in unsummed]]
    present = [i for i, _ in gradients]
    return _Norms(rows[present], norms, trainable, _versions(step.parameters))


def _versions(parameters: Parameters) -> list[tuple[int, int]] | None:
    """What tells whether gradients have changed: None where nothing does, for DTensors do not count their changes."""
    if parameters.parts is not None:
        return None
    return [(id(g), g._version) for p in parameters.tensors if (g := p.grad) is not None]


def _split(ledgers: Sequence[_Ledger], copy: Floats) -> list[tuple[_Ledger, Floats]]:
    ends = np.cumsum([sum(t.numel() for t in ledger.tensors()) for ledger in ledgers], dtype=np.int64)
    return list(zip(ledgers, np.split(copy, ends), strict=False))  # what is left over is the loss scale


def _take(norms: _Norms | None, copy: Floats) -> tuple[_Copied, Floats]:
    if norms is None:
        return _NOTHING, copy
    size = len(norms.rows)
    return _Copied(norms.rows, norms.trainable, copy[:size].astype(np.float64) ** 2), copy[size:]


def _totals(first: _Gradients, last: _Gradients, skipped: bool) -> dict[str, float]:
    if not len(first.rows):
        return {}
    totals = {TOTAL_NORM: first.total(), SKIPPED: float(skipped)}
    if not skipped:
        totals[TOTAL_NORM_CLIPPED] = last.total()
        if 0 < totals[TOTAL_NORM] < np.inf:
            totals[CLIP_COEFFICIENT] = totals[TOTAL_NORM_CLIPPED] / totals[TOTAL_NORM]
    return totals
