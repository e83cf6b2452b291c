"""The flight recorder: loss and gradient norms of the last steps, every one of them, for when there is a disaster."""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gradscope import stats
from gradscope.model.layers import LayerTable
from gradscope.model.moment import Moment, Parameters
from gradscope.records import Flight
from gradscope.transfer import Transfer

LAYERS = 4
"""Layers of each optimizer whose gradient norm is kept, spread over the depth of the net: each takes a good ten
microseconds of every step."""

SAMPLE = 2**8
"""Elements from which the norm of a gradient is estimated that has at least twice as many. To read all of them would
take longer than all else in such a step: they lie in memory, no longer in the cache."""


class FlightRecorder:
    """Keeps the last `steps` steps on the device; nothing is copied to the host until `flight`."""

    def __init__(self, table: LayerTable, steps: int) -> None:
        self._table = table
        self._entries: deque[_Entry] = deque(maxlen=steps)
        self._chosen: dict[int, _Chosen] = {}
        self._norms: dict[int, _Norms] = {}
        self._before: Flight | None = None

    def before_optimizer_step(self, moment: Moment) -> list[Tensor]:
        """Measure or estimate the gradient norms. Returns them where they were made at once: else none.

        On an accelerator samples are kept of which `flight` makes norms: it is the number of kernels that costs there.
        """
        chosen = self._chosen.get(moment.optimizer)
        if chosen is None or chosen.parameters is not moment.parameters:
            chosen = self._chosen[moment.optimizer] = _Chosen(moment.parameters, _spread(moment.parameters))
        gradients = moment.parameters.gradients(chosen.indices)
        if not gradients:
            self._norms.pop(moment.optimizer, None)
            return []
        if chosen.shapes != [(g.layout, g.numel()) for _, g in gradients]:  # or fewer of them have one
            chosen = _Chosen(moment.parameters, [i for i, _ in gradients])
        scale = moment.loss_scale if moment.scaled else None
        samples = [_sample(g, chosen.block) for _, g in gradients]
        if chosen.joined:
            self._norms[moment.optimizer] = _Norms(chosen, [], scale, torch.cat(samples))
            return []
        norms = stats.rough_norms(samples)
        self._norms[moment.optimizer] = _Norms(chosen, norms, scale)
        return norms

    def end(self, step: int, losses: Sequence[Tensor]) -> None:
        """Keep the step: `losses` are those of its micro-batches, of one element each."""
        self._entries.append(_Entry(step, tuple(losses), tuple(self._norms.values())))
        self._norms = {}

    def flight(self) -> Flight:
        """Copy what is kept to the host. Waits for the device."""
        entries = list(self._entries)
        rows = sorted({row for e in entries for n in e.norms for row in n.chosen.rows})
        column = {row: i for i, row in enumerate(rows)}
        copy = iter(Transfer([t for e in entries for t in e.tensors()]).numpy().tolist())
        loss = np.full(len(entries), np.nan)
        grad_norm = np.full((len(entries), len(rows)), np.nan, dtype=np.float32)
        for s, entry in enumerate(entries):
            if entry.losses:
                loss[s] = np.mean([next(copy) for _ in entry.losses])
            for taken in entry.norms:
                scaled = [next(copy) for _ in taken.chosen.rows]
                factor = 1.0 if taken.scale is None else next(copy)
                for row, norm, part in zip(taken.chosen.rows, scaled, taken.chosen.parts, strict=True):
                    grad_norm[s, column[row]] = norm / factor / part**0.5
        names = tuple(self._table.rows[row].name for row in rows)
        flight = Flight(np.array([e.step for e in entries], dtype=np.int64), loss, names, grad_norm)
        return flight if self._before is None else _joined(self._before, flight, self._entries.maxlen)

    def restore(self, flight: Flight) -> None:
        """Go on from the `flight` of a fit that this one resumes."""
        self._before = flight


def _joined(before: Flight, after: Flight, limit: int | None) -> Flight:
    """The last `limit` steps of both; those of `before` that come again in `after` were not to be."""
    kept = before.steps < (after.steps[0] if len(after.steps) else np.inf)
    layers = tuple(dict.fromkeys((*after.layers, *before.layers)))
    grad_norm = np.full((kept.sum() + len(after.steps), len(layers)), np.nan, dtype=np.float32)
    grad_norm[: kept.sum(), [layers.index(name) for name in before.layers]] = before.grad_norm[kept]
    grad_norm[kept.sum() :, [layers.index(name) for name in after.layers]] = after.grad_norm
    steps, loss = np.append(before.steps[kept], after.steps), np.append(before.loss[kept], after.loss)
    last = slice(max(0, len(steps) - (limit or 0)), None)
    return Flight(steps[last], loss[last], layers, grad_norm[last])


class _Chosen:
    """The tensors of an optimizer whose gradients are looked at, and how: as the first gradients lie.

    By tensor: the row of its layer, the elements of a sample, and the share of all that these are. Of one that is
    sharded over ranks the sample is of the part that is here, as if the others were like it. On an accelerator samples
    are `joined`, if they can be.
    """

    def __init__(self, parameters: Parameters, indices: list[int]) -> None:
        self.parameters, self.indices = parameters, indices
        gradients = [parameters.tensors[i].grad for i in indices]
        layouts = [torch.strided if g is None else g.layout for g in gradients]
        here = [parameters.here(i) for i in indices]
        self.shapes = [(layout, t.numel()) for layout, t in zip(layouts, here, strict=True)]
        self.joined = {*layouts} == {torch.strided} and stats.lie_on_one_accelerator(here)
        self.block = 1 if self.joined else stats.BLOCK
        self.rows = [int(parameters.rows[i]) for i in indices]
        self.sizes = [_sample(t, self.block).numel() for t in here]
        whole = [size / parameters.elements(i) for size, i in zip(self.sizes, indices, strict=True)]
        self.parts = [1.0 if g is not None and g.is_sparse else w for g, w in zip(gradients, whole, strict=True)]


class _Norms(NamedTuple):
    """Gradient norms of one optimizer, or the samples to make them of, and by what they are still scaled."""

    chosen: _Chosen
    norms: list[Tensor]
    scale: Tensor | None
    samples: Tensor | None = None

    def tensors(self) -> list[Tensor]:
        """A number for each that is chosen, and the scale."""
        norms = self.norms if self.samples is None else stats.rough_norms(torch.split(self.samples, self.chosen.sizes))
        return [*norms, *([] if self.scale is None else [self.scale])]


class _Entry(NamedTuple):
    """A step: the losses of its micro-batches, and the norms of each optimizer."""

    step: int
    losses: tuple[Tensor, ...]
    norms: tuple[_Norms, ...]

    def tensors(self) -> list[Tensor]:
        return [*self.losses, *(t for norms in self.norms for t in norms.tensors())]


def _spread(parameters: Parameters) -> list[int]:
    """The largest trainable tensor, its weight, of each layer: of `LAYERS` spread ones where there are more."""
    largest: dict[int, int] = {}
    for i, (row, tensor) in enumerate(zip(parameters.rows.tolist(), parameters.tensors, strict=True)):
        if row >= 0 and tensor.requires_grad and parameters.here(i).numel():
            known = largest.get(row)
            if known is None or parameters.elements(i) > parameters.elements(known):
                largest[row] = i
    indices = [largest[row] for row in sorted(largest)]
    if len(indices) <= LAYERS:
        return indices
    return [indices[i] for i in np.linspace(0, len(indices) - 1, LAYERS).round().astype(int)]


def _sample(gradient: Tensor, block: int) -> Tensor:
    return gradient.coalesce().values().detach() if gradient.is_sparse else stats.sample(gradient, SAMPLE, block)
