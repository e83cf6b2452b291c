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
        if len(gradients) < len(chosen.indices):
            chosen = _Chosen(moment.parameters, [i for i, _ in gradients])
        if not gradients:
            self._norms.pop(moment.optimizer, None)
            return []
        scale = moment.loss_scale if moment.scaled else None
        if _can_be_joined([g for _, g in gradients]):
            samples = [stats.sample(g, SAMPLE, block=1) for _, g in gradients]
            sizes = tuple(s.numel() for s in samples)
            parts = [size / moment.parameters.elements(i) for size, i in zip(sizes, chosen.indices, strict=True)]
            self._norms[moment.optimizer] = _Norms(chosen.rows, parts, [], scale, torch.cat(samples), sizes)
            return []
        norms = stats.rough_norms([_sample(g) for _, g in gradients])
        self._norms[moment.optimizer] = _Norms(chosen.rows, chosen.parts, norms, scale)
        return norms

    def end(self, step: int, losses: Sequence[Tensor]) -> None:
        """Keep the step: `losses` are those of its micro-batches, of one element each."""
        self._entries.append(_Entry(step, tuple(losses), tuple(self._norms.values())))
        self._norms = {}

    def flight(self) -> Flight:
        """Copy what is kept to the host. Waits for the device."""
        entries = list(self._entries)
        rows = sorted({row for e in entries for n in e.norms for row in n.rows})
        column = {row: i for i, row in enumerate(rows)}
        copy = iter(Transfer([t for e in entries for t in e.tensors()]).numpy().tolist())
        loss = np.full(len(entries), np.nan)
        grad_norm = np.full((len(entries), len(rows)), np.nan, dtype=np.float32)
        for s, entry in enumerate(entries):
            if entry.losses:
                loss[s] = np.mean([next(copy) for _ in entry.losses])
            for taken in entry.norms:
                scaled = [next(copy) for _ in taken.rows]
                factor = 1.0 if taken.scale is None else next(copy)
                for row, norm, part in zip(taken.rows, scaled, taken.parts, strict=True):
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
    """The tensors of an optimizer whose gradients are looked at; `parts` are the shares of them that `_sample` takes.

    Of one that is sharded over ranks the sample is of the part that is here, as if the others were like it.
    """

    def __init__(self, parameters: Parameters, indices: list[int]) -> None:
        self.parameters = parameters
        self.indices = indices
        self.rows = [int(parameters.rows[i]) for i in indices]
        self.parts = [self._part(i) for i in indices]

    def _part(self, index: int) -> float:
        gradient = self.parameters.tensors[index].grad
        if gradient is not None and gradient.is_sparse:
            return 1.0
        return _sample(self.parameters.here(index)).numel() / self.parameters.elements(index)


class _Norms(NamedTuple):
    """Gradient norms of one optimizer, or the samples to make them of, and by what they are still scaled.

    By tensor: the row of its layer, and the share of its elements that the norm is of.
    """

    rows: Sequence[int]
    parts: Sequence[float]
    norms: list[Tensor]
    scale: Tensor | None
    samples: Tensor | None = None
    sizes: tuple[int, ...] = ()

    def tensors(self) -> list[Tensor]:
        """A number for each that is chosen, and the scale."""
        norms = self.norms if self.samples is None else stats.rough_norms(torch.split(self.samples, list(self.sizes)))
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


def _can_be_joined(gradients: Sequence[Tensor]) -> bool:
    device = gradients[0].device
    return _is_accelerator(device) and all(g.device == device and g.layout is torch.strided for g in gradients)


def _is_accelerator(device: torch.device) -> bool:
    return device.type != "cpu"


def _sample(gradient: Tensor) -> Tensor:
    if gradient.is_sparse:
        return gradient.coalesce().values().detach()
    return gradient.detach() if gradient.numel() < 2 * SAMPLE else stats.sample(gradient, SAMPLE)
