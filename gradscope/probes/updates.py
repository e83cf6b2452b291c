"""How far a step moves the weights, relative to their size."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradscope import stats
from gradscope.model.moment import Moment, Parameters
from gradscope.model.sharding import local
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
from gradscope.records import Float64s, Floats, Metric, NonFinite
from gradscope.thresholds import Thresholds

WEIGHT_NORM = Metric("weight_norm", "weight norm", "L2 norm")
"""L2 norm over the layer's own trainable parameters, before the step; from about 1,024 evenly spread elements of each
tensor, the same each time, or from all where exactness is asked for."""

UPDATE_RATIO = Metric("update_ratio", "update ratio", "ratio")
"""‖Δw‖ / ‖w‖ of the layer's own trainable parameters, measured across the optimizer's step, whatever the optimizer;
Δw from about 1,024 evenly spread elements of each tensor, or from all where exactness is asked for. NaN where the
weights are all zero before the step, or where the optimizer did not step. Karpathy's rule of thumb is 1e-3."""

SAMPLE = 1024
"""Elements of a tensor by whose change that of all is estimated."""


class _Samples:
    """Evenly spread elements of the trainable parameters that are watched, many of them side by side.

    `numbers`, `rows` and `scale`, int64[n] twice and float64[n], are the parameter and the layer of each sample, and
    how many elements stand behind one of its elements, in the order of `norms`. Of sharded parameters they are those of
    the part that is here.
    """

    def __init__(self, parameters: Parameters, trainable: list[bool], size: int | None) -> None:
        watched = [i for i, row in enumerate(parameters.rows) if row >= 0 and trainable[i]]
        chosen = [i for i in watched if parameters.here(i).numel()]  # there are ranks without a part of it
        self.watched = np.array(watched, dtype=np.int64)
        self._tensors = [parameters.tensors[i] for i in chosen]
        tensors = [parameters.here(i) for i in chosen]
        self.parameters, self._trainable, self._places = parameters, trainable, _places(tensors)
        views = [stats.sample(t, size or t.numel()) for t in tensors]
        # A tensor that is not dense is sampled by copying: that sample does not follow it.
        self._follows = all(_storage(v) == _storage(t) for v, t in zip(views, tensors, strict=True))
        self._joined = stats.lie_on_one_accelerator(views)
        alike: dict[tuple[object, torch.dtype, torch.device], list[int]] = {}
        for i, view in enumerate(views):
            alike.setdefault((view.dim() if self._joined else view.shape, view.dtype, view.device), []).append(i)
        order = [i for group in alike.values() for i in group]
        self._groups = [[views[i] for i in group] for group in alike.values()]
        self.numbers = np.array(chosen, dtype=np.int64)[order]
        self.rows = parameters.rows[self.numbers]
        self.scale = np.array([tensors[i].numel() / views[i].numel() for i in order])

        self._on_device: tuple[Tensor, Tensor] | None = None

    def whole(self, norms: Sequence[Tensor]) -> Tensor:
        """Return the squared norm of the part that is here of each parameter, of what `norms` gave: float64[all]."""
        together = torch.cat([n.double() for n in norms]) if norms else torch.zeros(0, dtype=torch.float64)
        if self._on_device is None:  # once, for it makes the host wait
            places = torch.from_numpy(self.numbers).to(together.device)
            self._on_device = places, torch.from_numpy(self.scale).to(together.device)
        numbers, scale = self._on_device
        squares = torch.zeros(len(self.parameters.tensors), dtype=torch.float64, device=together.device)
        return squares.index_copy_(0, numbers, together.square() * scale)

    def fits(self, parameters: Parameters, trainable: list[bool]) -> bool:
        """Say whether these are still samples of those of `parameters` that are `trainable`."""
        return (
            self._follows
            and self.parameters is parameters
            and self._trainable == trainable
            and self._places == _places(self._tensors if parameters.parts is None else [*map(local, self._tensors)])
        )

    def copies(self) -> list[Tensor]:
        """Return the elements as they are now, one tensor for each group."""
        return [torch.cat(views) for views in self._groups]

    def norms(self, elements: Sequence[Tensor]) -> list[Tensor]:
        """Return the L2 norm of each sample's part of `elements`, group by group, as `copies` gives them."""
        groups = [*zip(self._groups, elements, strict=True)]
        if not self._joined:
            return [stats.row_norms(part.view(len(views), -1)) for views, part in groups]
        split = [torch.split(part, [view.shape[0] for view in views]) for views, part in groups]
        return [stats.l2_norms([sample for samples in split for sample in samples])] if split else []


class _Weights(NamedTuple):
    """Weights before a step: copies of the samples, and their norms."""

    samples: _Samples
    copies: list[Tensor]
    norms: list[Tensor]


class _Moved(NamedTuple):
    """What came of them: the norms of the change of each sample; and the flag of a step that did not happen."""

    samples: _Samples
    norms: list[Tensor]
    overflow: list[Tensor]


class UpdateProbe(Probe):
    """Measures `weight_norm` and `update_ratio`."""

    def __init__(self, thresholds: Thresholds, exact: bool = False) -> None:
        super().__init__(thresholds)
        self._size = None if exact else SAMPLE
        self._samples: dict[int, _Samples] = {}
        self._before: dict[int, _Weights] = {}
        self._moved: dict[int, _Moved] = {}
        self._shared: dict[int, _Known] = {}

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return WEIGHT_NORM, UPDATE_RATIO, NONFINITE

    def before_optimizer_step(self, moment: Moment) -> None:
        if moment.optimizer in self._before and moment.optimizer not in self._moved:
            return  # the closure is evaluated again within the same step: the weights of the first time count
        self._moved.pop(moment.optimizer, None)
        samples = self._sampled(moment)
        copies = samples.copies()
        self._before[moment.optimizer] = _Weights(samples, copies, samples.norms(copies))

    def after_optimizer_step(self, moment: Moment) -> None:
        if moment.optimizer not in self._before:
            return  # a step that nobody announced: what the weights were before is not known
        weights, samples = self._before[moment.optimizer], self._sampled(moment)
        if len(samples.rows) != len(weights.samples.rows):
            return  # a parameter came or went within the step
        changes = [_wide(new) - _wide(old) for new, old in zip(samples.copies(), weights.copies, strict=True)]
        overflow = [] if moment.overflow is None else [moment.overflow]
        self._moved[moment.optimizer] = _Moved(samples, samples.norms(changes), overflow)

    def _sampled(self, moment: Moment) -> _Samples:
        trainable = [t.requires_grad for t in moment.parameters.tensors]
        samples = self._samples.get(moment.optimizer)
        if samples is None or not samples.fits(moment.parameters, trainable):
            samples = self._samples[moment.optimizer] = _Samples(moment.parameters, trainable, self._size)
        return samples

    def merging(self) -> Merging:
        return _UpdatesOfRanks(self._shared)

    def share(self, layout: Layout) -> Tensor:
        self._shared.update({n: _Known(w.samples.parameters, w.samples.watched) for n, w in self._before.items()})
        parts = [
            _shared(self._before.get(number), self._moved.get(number), size)
            for number, size in enumerate(layout.parameters)
        ]
        device = next((part.device for part in parts if part.device.type != "cpu"), torch.device("cpu"))
        return torch.cat([part.to(device) for part in parts] or [torch.zeros(0, dtype=torch.float64)])

    def finish(self, layers: int) -> Pending:
        before, moved = list(self._before.values()), list(self._moved.values())
        self._before, self._moved = {}, {}
        if any(w.samples.parameters.spread for w in before):
            return Pending([], lambda copy: Measured({}))
        rows = joined([w.samples.rows for w in before])
        scale = np.concatenate([np.empty(0), *(w.samples.scale for w in before)])

        def resolve(copy: Floats) -> Measured:
            squares = copy[: len(rows)].astype(np.float64) ** 2 * scale
            return _measured(rows, squares, _change(moved, copy[len(rows) :], layers), layers)

        parts = [*(w.norms for w in before), *([*m.norms, *m.overflow] for m in moved)]
        return Pending([t for part in parts for t in part], resolve)

    def forget(self) -> None:
        self._samples, self._before, self._moved = {}, {}, {}


def _measured(rows: npt.NDArray[np.int64], squares: Float64s, change: Float64s, layers: int) -> Measured:
    """What squared norms of weights, and of the `change` of each layer, come to."""
    weight = sum_by_layer(rows, squares, layers)
    with np.errstate(invalid="ignore"):  # inf / inf, where the weights are lost: NaN is the answer
        ratio = np.sqrt(change / np.where(weight == 0, np.nan, weight))
    return Measured(
        {
            WEIGHT_NORM.name: np.sqrt(weight).astype(np.float32),
            UPDATE_RATIO.name: ratio.astype(np.float32),
            NONFINITE.name: flagged(rows, ~np.isfinite(squares), NonFinite.WEIGHT, layers),
        }
    )


def _change(moved: Sequence[_Moved], copy: Floats, layers: int) -> npt.NDArray[np.float64]:
    """Squared norms of the change of each layer: float64[layers], NaN for one whose optimizer did not step."""
    rows, squares = [], []
    for m in moved:
        size = len(m.samples.rows)
        skipped = (copy[size : size + len(m.overflow)] > 0).any()
        if not skipped:
            rows.append(m.samples.rows)
            squares.append(copy[:size].astype(np.float64) ** 2 * m.samples.scale)
        copy = copy[size + len(m.overflow) :]
    return sum_by_layer(joined(rows), np.concatenate([np.empty(0), *squares]), layers)


def _places(tensors: Sequence[Tensor]) -> list[int]:
    return [*map(Tensor.data_ptr, tensors)]


def _storage(t: Tensor) -> int:
    return t.untyped_storage().data_ptr()


def _wide(t: Tensor) -> Tensor:
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t


FLAGS = 3
"""Ranks that looked at the weights before the step, that looked after it, and on which nothing came of it."""


class _Known(NamedTuple):
    """What need not be sent of an optimizer: its parameters, and the numbers of those that are watched."""

    parameters: Parameters
    watched: npt.NDArray[np.int64]


def _shared(weights: _Weights | None, moved: _Moved | None, size: int) -> Tensor:
    """Squared norms of the parts of weights and changes that are here, and flags: float64[2 * size + FLAGS].

    Of other parameters than the ranks agreed on they say nothing: they will agree anew.
    """
    if weights is None or len(weights.samples.parameters.tensors) != size:
        return torch.zeros(2 * size + FLAGS, dtype=torch.float64)
    before = weights.samples.whole(weights.norms)
    after = torch.zeros_like(before) if moved is None else moved.samples.whole(moved.norms)
    flags = before.new_zeros(FLAGS)
    flags[0], flags[1] = 1, moved is not None
    for overflow in [] if moved is None else moved.overflow:
        flags[2] = (overflow > 0).any()
    return torch.cat((before, after, flags))


class _UpdatesOfRanks(Merging):
    """Sums up squared norms of parts; `known` is kept up to date by the probe, optimizer by optimizer."""

    def __init__(self, known: Mapping[int, _Known]) -> None:
        self._known = known

    def size(self, layout: Layout) -> int:
        return sum(2 * size + FLAGS for size in layout.parameters)

    def measured(self, layout: Layout, sums: Float64s, layers: int) -> Measured:
        rows, weights, moved, changes = [], [np.empty(0)], [], [np.empty(0)]
        for number, size in enumerate(layout.parameters):
            part, sums = np.split(sums, [2 * size + FLAGS])
            looked, after, skipped = part[-FLAGS:]
            if looked and number in self._known:
                parameters, watched = self._known[number]
                squares = part[:-FLAGS].reshape(2, -1)[:, watched] * parameters.shares(layout.ranks)[watched]
                rows.append(parameters.rows[watched])
                weights.append(squares[0])
                if after == looked and not skipped:
                    moved.append(rows[-1])
                    changes.append(squares[1])
        change = sum_by_layer(joined(moved), np.concatenate(changes), layers)
        return _measured(joined(rows), np.concatenate(weights), change, layers)
