"""The flight recorder: loss and gradient norms of the last steps, every one of them, for when there is a disaster."""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gradscope import stats
from gradscope.layers import LayerTable
from gradscope.probes.probe import Parameters, Step
from gradscope.records import Flight
from gradscope.transfer import Transfer

LAYERS = 16
"""Layers of each optimizer whose gradient norm is kept, spread over the depth of the net: what an unrecorded step may
cost is some ten microseconds, and each tensor takes three to five."""

SAMPLE = 256
"""Elements of a gradient from which its norm is estimated: within a tenth, where no few elements dominate."""


class FlightRecorder:
    """Keeps the last `steps` steps on the device; nothing is copied to the host until `flight`."""

    def __init__(self, table: LayerTable, steps: int) -> None:
        self._table = table
        self._entries: deque[_Entry] = deque(maxlen=steps)
        self._chosen: dict[int, _Chosen] = {}
        self._norms: dict[int, tuple[_Chosen, Tensor, Tensor | None]] = {}

    def before_optimizer_step(self, step: Step) -> Tensor | None:
        """Estimate the gradient norms: float32[n] on the device, or None where there is no gradient."""
        chosen = self._chosen.get(step.optimizer)
        if chosen is None or chosen.parameters is not step.parameters:
            chosen = self._chosen[step.optimizer] = _Chosen(step.parameters, _spread(step.parameters))
        gradients = [t.grad for t in chosen.tensors]
        if any(g is None for g in gradients):
            present = [i for i, g in zip(chosen.indices, gradients, strict=True) if g is not None]
            chosen = _Chosen(step.parameters, present)
        samples = [_sample(g, f) for g, f in zip(gradients, chosen.factors, strict=False) if g is not None]
        if not samples:
            self._norms.pop(step.optimizer, None)
            return None
        norms = stats.row_norms(torch.stack(samples)) if _alike(samples) else stats.l2_norms(samples)
        self._norms[step.optimizer] = chosen, norms, step.loss_scale if step.scaled else None
        return norms

    def end(self, step: int, losses: Sequence[Tensor]) -> None:
        """Keep the step: `losses` are those of its micro-batches, of one element each."""
        self._entries.append(_Entry(step, tuple(losses), tuple(self._norms.values())))
        self._norms = {}

    def flight(self) -> Flight:
        """Copy what is kept to the host. Waits for the device."""
        entries = list(self._entries)
        rows = sorted({row for e in entries for chosen, *_ in e.norms for row in chosen.rows})
        column = {row: i for i, row in enumerate(rows)}
        transfer = Transfer([t for e in entries for t in e.tensors()])
        copy, loss = transfer.numpy(), np.full(len(entries), np.nan)
        grad_norm = np.full((len(entries), len(rows)), np.nan, dtype=np.float32)
        for s, entry in enumerate(entries):
            if entry.losses:
                loss[s] = copy[: len(entry.losses)].mean(dtype=np.float64)
            copy = copy[len(entry.losses) :]
            for chosen, norms, scale in entry.norms:
                unscaled = copy[: len(norms)] * np.array(chosen.factors) / (1.0 if scale is None else copy[len(norms)])
                grad_norm[s, [column[row] for row in chosen.rows]] = unscaled
                copy = copy[len(norms) + (scale is not None) :]
        names = tuple(self._table.rows[row].name for row in rows)
        return Flight(np.array([e.step for e in entries], dtype=np.int64), loss, names, grad_norm)


class _Chosen:
    """The tensors of an optimizer whose gradients are looked at; `factors` turn norms of samples into norms."""

    def __init__(self, parameters: Parameters, indices: list[int]) -> None:
        self.parameters = parameters
        self.indices = indices
        self.tensors = [parameters.tensors[i] for i in indices]
        self.rows = [int(parameters.rows[i]) for i in indices]
        self.factors = [max(1.0, t.numel() / SAMPLE) ** 0.5 for t in self.tensors]


class _Entry(NamedTuple):
    """A step: its losses, and for each optimizer which gradients, their norms, and by what they are still scaled."""

    step: int
    losses: tuple[Tensor, ...]
    norms: tuple[tuple[_Chosen, Tensor, Tensor | None], ...]

    def tensors(self) -> list[Tensor]:
        return [*self.losses, *(t for _, norms, scale in self.norms for t in (norms, scale) if t is not None)]


def _spread(parameters: Parameters) -> list[int]:
    """The largest trainable tensor, its weight, of each layer: of `LAYERS` spread ones where there are more."""
    largest: dict[int, int] = {}
    for i, (row, tensor) in enumerate(zip(parameters.rows.tolist(), parameters.tensors, strict=True)):
        if row >= 0 and tensor.requires_grad and tensor.numel():
            known = largest.get(row)
            if known is None or tensor.numel() > parameters.tensors[known].numel():
                largest[row] = i
    indices = [largest[row] for row in sorted(largest)]
    if len(indices) <= LAYERS:
        return indices
    return [indices[i] for i in np.linspace(0, len(indices) - 1, LAYERS).round().astype(int)]


def _sample(gradient: Tensor, factor: float) -> Tensor:
    if gradient.is_sparse:
        return gradient.coalesce().values().detach().flatten() / factor  # all of its elements, not a sample
    size = gradient.numel()
    if size <= SAMPLE or not gradient.is_contiguous():
        return stats.sample(gradient, SAMPLE)[:SAMPLE]
    stride = size // SAMPLE
    return gradient.as_strided((SAMPLE,), (stride - 1 + stride % 2,))


def _alike(samples: Sequence[Tensor]) -> bool:
    first = samples[0]
    return all(s.shape == first.shape and s.dtype is first.dtype and s.device == first.device for s in samples)
