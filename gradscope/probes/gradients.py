"""The ledger of a step: gradient norms before clipping and as the optimizer saw them, and whether it stepped."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradscope import stats
from gradscope.model.moment import Moment, Parameters
from gradscope.model.nesterov import Momenta
from gradscope.model.sharding import PARTIAL
from gradscope.probes.layout import Layout
from gradscope.probes.probe import (
    NONFINITE,
    Measured,
    Merging,
    Pending,
    Probe,
    flagged,
    joined,
    sum_by_layer,
)
from gradscope.records import (
    CLIP_COEFFICIENT,
    LOSS_SCALE,
    SKIPPED,
    TOTAL_NORM,
    TOTAL_NORM_CLIPPED,
    Float64s,
    Floats,
    Metric,
    NonFinite,
)
from gradscope.thresholds import Thresholds

GRAD_NORM = Metric("grad_norm", "gradient norm", "L2 norm")
"""L2 norm over the layer's own parameters, unscaled, before clipping."""

GRAD_NORM_CLIPPED = Metric("grad_norm_clipped", "gradient norm after clipping", "L2 norm")
"""The same as the optimizer saw it; NaN where the optimizer did not step, or left no gradients."""

NO_GRADIENT_FRACTION = Metric("no_gradient_fraction", "parameters without gradient", "fraction")
"""Share of the layer's trainable parameter tensors whose gradient is None or exactly zero; NaN where none is
trainable, which tells what is cut off from what was frozen on purpose. A tensor without elements does not count."""


class _Norms(NamedTuple):
    """L2 norms on the device, and the `numbers` and rows of the parameters they belong to.

    `trainable` are the rows of all trainable parameters. `versions` tells whether the gradients have changed since:
    None where that is not known.
    """

    numbers: list[int]
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
    silent: bool = False

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
        self._parameters: dict[int, Parameters] = {}
        self._shared: dict[int, _Known] = {}

    @property
    def unmeasured(self) -> Mapping[int, str]:
        return self._unmeasured

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return GRAD_NORM, GRAD_NORM_CLIPPED, NO_GRADIENT_FRACTION, NONFINITE

    def after_backward(self, moment: Moment) -> None:
        self._backward[moment.optimizer] = _measure(moment)

    def before_optimizer_step(self, moment: Moment) -> None:
        self._loss_scale = [] if moment.loss_scale is None else [moment.loss_scale]
        self._parameters[moment.optimizer] = moment.parameters
        backward = self._backward.pop(moment.optimizer, None)
        self._ledgers[moment.optimizer] = _Ledger(backward, _measure(moment), silent=moment.silent)
        unsummed = moment.parameters.rows[moment.parameters.unsummed()]
        self._unmeasured.update((int(row), PARTIAL) for row in unsummed if row >= 0)

    def after_optimizer_step(self, moment: Moment) -> None:
        ledger = self._ledgers.get(moment.optimizer, _Ledger())
        self._parameters[moment.optimizer] = moment.parameters
        momenta = moment.momenta()
        is_same = moment.untouched and _is_same(ledger.before, moment, momenta)
        after = ledger.before if is_same else _measure(moment, momenta)
        self._ledgers[moment.optimizer] = ledger._replace(after=after, overflow=moment.overflow)

    def merging(self) -> Merging:
        return _GradientsOfRanks(self._shared)

    def share(self, layout: Layout) -> Tensor:
        ledgers = [self._agreed(*of) for of in enumerate(layout.parameters)]
        for number, ledger in enumerate(ledgers):
            if ledger.before is not None:
                self._shared[number] = _Known(self._parameters[number], ledger.before.trainable)
        tensors = [*self._loss_scale, *(t for ledger in ledgers for t in ledger.tensors())]
        device = next((t.device for t in tensors if t.device.type != "cpu"), torch.device("cpu"))
        parts = [_shared(*of, device) for of in zip(ledgers, layout.parameters, strict=True)]
        scale = self._loss_scale or [torch.zeros(1, device=device)]
        return torch.cat([*parts, *(scale if parts else [])]) if parts else torch.zeros(0, dtype=torch.float64)

    def _agreed(self, number: int, size: int) -> _Ledger:
        """What an optimizer did, if it has as many parameters as the ranks agreed on; if not they will agree anew."""
        known = self._parameters.get(number)
        return self._ledgers.get(number, _Ledger()) if known and len(known.tensors) == size else _Ledger()

    def finish(self, layers: int) -> Pending:
        ledgers, scale = list(self._ledgers.values()), self._loss_scale
        self.forget()
        if any(parameters.spread for parameters in self._parameters.values()):
            return Pending([], lambda copy: Measured({}))

        def resolve(copy: Floats) -> Measured:
            entries = [_entry(ledger, part) for ledger, part in _split(ledgers, copy)]
            return _measured(entries, float(copy[-1]) if scale else 0.0, layers)

        return Pending([t for ledger in ledgers for t in ledger.tensors()] + scale, resolve)

    def forget(self) -> None:
        self._ledgers, self._backward, self._loss_scale = {}, {}, []


class _Copied(NamedTuple):
    """The squared norms of one optimizer at one moment, on the host."""

    rows: npt.NDArray[np.int64]
    trainable: npt.NDArray[np.int64]
    squares: npt.NDArray[np.float64]


_NOTHING = _Copied(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0))


class _Entry:
    """What one optimizer did: `first` is before clipping, `last` as the optimizer saw it.

    The latter is `unknown` of one that tells nothing of its step, and of one that wiped its gradients as it stepped:
    nobody clips to nothing at all.
    """

    def __init__(self, backward: _Copied, before: _Copied, after: _Copied | None, skipped: bool) -> None:
        self.skipped = skipped
        changed = None if after is before else after
        wiped = changed is not None and before.squares.sum() > 0 and changed.squares.sum() == 0
        self.unknown = not skipped and (after is None or wiped)
        shrunk = backward is not _NOTHING and before.squares.sum() < backward.squares.sum()
        self.first = backward if shrunk else before
        self.last = _NOTHING if after is None or self.unknown else after


def _entry(ledger: _Ledger, copy: Floats) -> _Entry:
    backward, copy = _take(ledger.backward, copy)
    before, copy = _take(ledger.before, copy)
    after, copy = (before, copy) if ledger.after is ledger.before else _take(ledger.after, copy)
    skipped = bool((copy > 0).any()) if ledger.after is not None else not ledger.silent
    return _Entry(backward, before, None if skipped or ledger.after is None else after, skipped)


def _measured(entries: Sequence[_Entry], scale: float, layers: int) -> Measured:
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
        _totals(first, last, entries) | ({LOSS_SCALE: scale} if scale else {}),
    )


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


def _measure(moment: Moment, momenta: Momenta = MappingProxyType({})) -> _Norms:
    rows = moment.parameters.rows
    gradients = moment.parameters.gradients()
    norms = _norms_as_given(moment, gradients, momenta) if momenta else stats.l2_norms([g for _, g in gradients])
    if gradients and moment.scaled and moment.loss_scale is not None:  # of none the norms are on the CPU
        norms = norms / moment.loss_scale
    present = [i for i, _ in gradients]
    return _Norms(
        present, rows[present], norms, rows[moment.parameters.trainable()], _versions(moment.parameters, gradients)
    )


def _versions(parameters: Parameters, gradients: Sequence[tuple[int, Tensor]]) -> list[tuple[int, int]] | None:
    """What tells whether gradients have changed: None where nothing does, for DTensors do not count their changes."""
    return [(id(g), g._version) for _, g in gradients] if parameters.parts is None else None


def _is_same(before: _Norms | None, moment: Moment, momenta: Momenta) -> bool:
    """Whether the gradients, as the optimizer was given them, are those that were measured `before`."""
    known = before.versions if before is not None else None
    gradients = moment.parameters.gradients()
    now = _versions(moment.parameters, gradients)
    if now is not None and momenta:  # which were added to them once
        added = [moment.parameters.tensors[i] in momenta for i, _ in gradients]
        now = [(identity, version - one) for (identity, version), one in zip(now, added, strict=True)]
    return known is not None and known == now


def _norms_as_given(moment: Moment, gradients: Sequence[tuple[int, Tensor]], momenta: Momenta) -> Tensor:
    """Their norms without what the optimizer has added; one by one, for a copy of all takes much memory."""
    norms = []
    for i, g in gradients:
        times, momentum = momenta.get(moment.parameters.tensors[i], (0.0, None))
        norms.append(stats.l2_norms([g if momentum is None else torch.sub(g, momentum, alpha=times)]))
    return torch.cat([n.to(norms[0].device) for n in norms]) if norms else stats.l2_norms([])


def _split(ledgers: Sequence[_Ledger], copy: Floats) -> list[tuple[_Ledger, Floats]]:
    parts = []
    for ledger in ledgers:
        size = sum([t.numel() for t in ledger.tensors()])
        parts.append((ledger, copy[:size]))
        copy = copy[size:]
    return parts  # what is left over is the loss scale


def _take(norms: _Norms | None, copy: Floats) -> tuple[_Copied, Floats]:
    if norms is None:
        return _NOTHING, copy
    size = len(norms.rows)
    return _Copied(norms.rows, norms.trainable, copy[:size].astype(np.float64) ** 2), copy[size:]


def _totals(first: _Gradients, last: _Gradients, entries: Sequence[_Entry]) -> dict[str, float]:
    if not len(first.rows):
        return {}
    totals = {TOTAL_NORM: first.total(), SKIPPED: float(any(e.skipped for e in entries))}
    if not any(e.skipped or e.unknown for e in entries):
        totals[TOTAL_NORM_CLIPPED] = last.total()
        if 0 < totals[TOTAL_NORM] < np.inf:
            totals[CLIP_COEFFICIENT] = totals[TOTAL_NORM_CLIPPED] / totals[TOTAL_NORM]
    return totals


MOMENTS = 3
"""At which gradients are measured: after a backward, before clipping, after the step."""

FLAGS = 3
"""Ranks that looked at gradients before clipping, that did so after a backward, and on which the optimizer skipped."""


def _shared(ledger: _Ledger, size: int, device: torch.device) -> Tensor:
    """Squared norms of the parts that are here at each moment, whether there is a gradient, flags.

    float64[(MOMENTS + 1) * size + FLAGS], zero where there is nothing. It counts for nothing that a gradient is None of
    which no part is here.
    """
    numbers = torch.zeros((MOMENTS + 1) * size + FLAGS, dtype=torch.float64, device=device)
    *moments, present = numbers[:-FLAGS].view(MOMENTS + 1, size)
    for squares, norms in zip(moments, (ledger.backward, ledger.before, ledger.after), strict=True):
        if norms is not None and norms.numbers:
            index = torch.tensor(norms.numbers, dtype=torch.int64).to(device, non_blocking=True)
            squares.index_copy_(0, index, norms.norms.double().square())
            present.index_fill_(0, index, 1)
    numbers[-3] = ledger.before is not None
    numbers[-2] = ledger.backward is not None
    skipped = ledger.after is None and not ledger.silent
    numbers[-1] = skipped if ledger.overflow is None else (ledger.overflow > 0).any()
    return numbers


class _Known(NamedTuple):
    """What need not be sent of an optimizer: its parameters, and the rows of those that were trainable."""

    parameters: Parameters
    trainable: npt.NDArray[np.int64]


class _GradientsOfRanks(Merging):
    """Sums up squared norms of parts; `known` is kept up to date by the probe, optimizer by optimizer."""

    def __init__(self, known: Mapping[int, _Known]) -> None:
        self._known = known

    def size(self, layout: Layout) -> int:
        parts = [(MOMENTS + 1) * size + FLAGS for size in layout.parameters]
        return sum(parts) + 1 if parts else 0

    def measured(self, layout: Layout, sums: Float64s, layers: int) -> Measured:
        entries = []
        for number, size in enumerate(layout.parameters):
            part, sums = np.split(sums, [(MOMENTS + 1) * size + FLAGS])
            if part[-FLAGS] and number in self._known:
                entries.append(_entry_of_ranks(self._known[number], part, layout.ranks))
        return _measured(entries, float(sums[0]) / layout.ranks, layers)


def _entry_of_ranks(known: _Known, sums: Float64s, ranks: int) -> _Entry:
    *moments, present = sums[:-FLAGS].reshape(MOMENTS + 1, -1)
    numbers = np.flatnonzero(present)
    rows, shares = known.parameters.rows[numbers], known.parameters.shares(ranks)[numbers]
    backward, before, after = (_Copied(rows, known.trainable, squares[numbers] * shares) for squares in moments)
    _, backwards, skipped = sums[-FLAGS:] > 0
    return _Entry(backward if backwards else _NOTHING, before, None if skipped else after, bool(skipped))
