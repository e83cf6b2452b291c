"""Which units of a rectifier still fire: dead, dying and revived told apart."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from gradscope import stats
from gradscope.activations import RECTIFIER, Activation
from gradscope.model.sharding import unit_slice
from gradscope.probes.layout import Layout, pack, unpack, words
from gradscope.probes.probe import Measured, Merging, Pending, Probe
from gradscope.records import Float64s, Metric
from gradscope.thresholds import Thresholds

FRACTIONS = DEAD, DYING, REVIVED = "dead_fraction", "dying_fraction", "revived_fraction"

NEVER = torch.inf
"""Batches since a unit last fired, for one that never did."""


ENOUGH = 4096
"""Elements of each unit among which one that fires at all is nearly sure to be seen to."""


class LivenessProbe(Probe):
    """Counts the units of each rectifier by the batches since each last fired: recorded batches, state on the device.

    `dead_fraction`: fired for no sample in the last `Thresholds.dead_window` batches, or never yet.
    `dying_fraction`: silent in the last batch, but not for so long. `revived_fraction`: fired in this step after
    having been dead, though alive once before. A unit is a channel of what a convolution or a batch, group or
    instance norm gives out, else a feature: an element of the last dimension.
    """

    def __init__(self, thresholds: Thresholds, exact: bool = False) -> None:
        super().__init__(thresholds)
        self._window = thresholds.dead_window
        self._metrics = (
            Metric(DEAD, "dead units", "fraction", {RECTIFIER: (0, thresholds.dead_fraction)}),
            Metric(DYING, "dying units", "fraction"),
            Metric(REVIVED, "revived units", "fraction"),
        )
        self._batches: list[dict[int, Tensor]] = []
        """The peaks of each row, of each micro-batch of the step."""
        self._units = _Units(self._window)
        self._widths: dict[int, int] = {}
        self._slices: dict[int, tuple[int, int]] = {}
        """Where the units of each row begin among those of all ranks, and how many these are."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return self._metrics

    def begin_batch(self) -> None:
        self._batches.append({})

    def observe(self, row: int, activation: Activation, output: Tensor, producer: nn.Module | None) -> None:
        if activation.kind != RECTIFIER:
            return
        peaks = _peaks(output, unit_dimension(output, producer))
        if peaks.dtype is not torch.float32:
            peaks = peaks.float()
        batch = self._batches[-1]
        units = peaks.shape[0]
        width = self._widths.get(row)
        if width is None:
            self._widths[row], self._slices[row] = units, unit_slice(producer, units)
        elif width != units:
            raise ValueError(f"the number of units changed from {width} to {units}")
        batch[row] = torch.maximum(batch[row], peaks) if row in batch else peaks

    @property
    def units(self) -> Mapping[int, int]:
        return {row: units for row, (_, units) in self._slices.items()}

    def merging(self) -> Merging:
        return _LivenessOfRanks(self._window)

    def share(self, layout: Layout) -> Tensor:
        rows, ends = _rectifiers(layout)
        batches = [batch for batch in self._batches if batch]
        device = next((peaks.device for batch in batches for peaks in batch.values()), torch.device("cpu"))
        ran = torch.zeros(layout.batches, len(rows), dtype=torch.float64)
        fired = torch.zeros(layout.batches, ends[-1], dtype=torch.bool, device=device)
        for number, batch in enumerate(batches if rows else []):
            b = min(number, layout.batches - 1)  # more than were agreed on: these count as one
            widths = np.diff(ends).tolist()
            silent = torch.zeros(max(widths), device=device)
            peaks = [
                self._whole(row, batch) if row in batch else silent[:w] for row, w in zip(rows, widths, strict=True)
            ]
            fired[b] |= torch.cat(peaks) > 0
            ran[b] += torch.tensor([row in batch for row in rows])
        return torch.cat((ran.clamp(max=1).view(-1).to(device), pack(fired, layout.ranks).view(-1)))

    def _whole(self, row: int, batch: Mapping[int, Tensor]) -> Tensor:
        """The peaks of a row among those of the units that other ranks hold: these are silent here."""
        (first, units), here = self._slices[row], len(batch[row])
        return batch[row] if here == units else nn.functional.pad(batch[row], (first, units - first - here))

    def memory(self) -> Mapping[int, Tensor]:
        return self._units.memory()

    def remember(self, memory: Mapping[int, Tensor]) -> None:
        self._units.remember(memory)

    def finish(self, layers: int) -> Pending:
        batches = [batch for batch in self._batches if batch]
        self.forget()
        if not batches:
            nothing = _fractions((), np.empty((3, 0)), self._widths, layers)
            return Pending([], lambda copy: nothing)
        rows, counts = self._units.pass_batches([_fired(batch) for batch in batches])
        return Pending([counts], lambda copy: _fractions(rows, copy.reshape(3, -1), self._widths, layers))

    def forget(self) -> None:
        self._batches = []


def _fractions(
    rows: tuple[int, ...], counts: npt.NDArray[np.floating], widths: Mapping[int, int], layers: int
) -> Measured:
    """What `counts` of dead, dying and revived units up to the end of each of `rows` come to: fractions of a layer."""
    fractions = np.full((3, layers), np.nan, dtype=np.float32)
    before = np.zeros_like(counts)
    before[:, 1:] = counts[:, :-1]
    fractions[:, rows] = (counts - before) / [widths[row] for row in rows]
    return Measured(dict(zip(FRACTIONS, fractions, strict=True)))


def _rectifiers(layout: Layout) -> tuple[list[int], list[int]]:
    """The rows whose units are counted, and where the units of each begin and end side by side: one more."""
    rows = [int(row) for row, width in zip(layout.rows, layout.widths, strict=True) if width]
    return rows, [0, *np.cumsum(layout.widths[layout.widths > 0]).tolist()]


class _LivenessOfRanks(Merging):
    """Counts units that are silent on all ranks: a batch is what all of them saw at once."""

    def __init__(self, window: int) -> None:
        self._units = _Units(window)

    def size(self, layout: Layout) -> int:
        rows, ends = _rectifiers(layout)
        return layout.batches * (len(rows) + words(ends[-1], layout.ranks))

    def measured(self, layout: Layout, sums: Float64s, layers: int) -> Measured:
        rows, ends = _rectifiers(layout)
        ran, packed = np.split(sums, [layout.batches * len(rows)])
        fired = torch.from_numpy(unpack(packed.reshape(layout.batches, -1), ends[-1], layout.ranks))
        widths = np.diff(ends)
        batches = [
            _Batch(
                tuple(row for row, saw in zip(rows, seen, strict=True) if saw),
                widths[seen > 0].tolist(),
                fired[b] if seen.all() else fired[b][torch.from_numpy(np.repeat(seen > 0, widths))],
            )
            for b, seen in enumerate(ran.reshape(layout.batches, -1))
            if seen.any()
        ]
        if not batches:
            return _fractions((), np.empty((3, 0)), {}, layers)
        silent, counts = self._units.pass_batches(batches)
        return _fractions(silent, counts.numpy(), dict(zip(rows, widths, strict=True)), layers)

    def memory(self) -> Mapping[int, Tensor]:
        return self._units.memory()

    def remember(self, memory: Mapping[int, Tensor]) -> None:
        self._units.remember(memory)


def _peaks(output: Tensor, dimension: int) -> Tensor:
    """The peak of each unit, or, where an eighth of the batch tells already that all units fire, that of this eighth.

    Whether a unit fires is all that is asked for, and to read a large output once more takes longer than all else.
    """
    shape = output.shape
    samples = shape[0] // 8 if len(shape) > 1 else 0
    if samples and output.is_cpu and output.numel() // shape[0] * samples >= ENOUGH * shape[dimension]:
        peaks = stats.unit_peaks(output[:samples], dimension)
        if bool((peaks > 0).all()):
            return peaks
    return stats.unit_peaks(output, dimension)


class _Batch(NamedTuple):
    """The rows that ran in a batch, how many units each has, and which units fired, side by side: bool[units]."""

    rows: tuple[int, ...]
    widths: list[int]
    fired: Tensor


def _fired(peaks: Mapping[int, Tensor]) -> _Batch:
    return _Batch(tuple(peaks), [units.shape[0] for units in peaks.values()], torch.cat(list(peaks.values())) > 0)


class _Units:
    """For how many batches each unit has been silent: state on the device, the rows of the last batch side by side.

    The rows of a batch are nearly always those of the batch before, and to take them apart and join them again costs
    more than all the arithmetic.
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self._before: dict[int, Tensor] = {}
        """Of a fit that this one goes on from, the rows that have not been seen yet."""
        self._others: dict[int, Tensor] = {}
        self._rows: tuple[int, ...] = ()
        self._widths: list[int] = []
        self._silent = torch.zeros(0, dtype=torch.float32, device="cpu")
        self._ends = torch.zeros(0, dtype=torch.int64, device="cpu")

    def pass_batches(self, batches: Sequence[_Batch]) -> tuple[tuple[int, ...], Tensor]:
        """Let the batches of a step pass, none of which is empty.

        Returns the rows that are in any of them, and the dead, dying and revived units up to the end of each:
        int32[3, rows].
        """
        revived = [self._pass(batch) for batch in batches]
        rows = tuple(dict.fromkeys(row for batch in batches for row in batch.rows))
        return rows, self._running_counts(rows, _any(rows, batches, revived))

    def _pass(self, batch: _Batch) -> Tensor:
        """Let a batch pass. Returns which units of its rows it revived: bool[units]."""
        if batch.rows != self._rows:
            for row, width in zip(batch.rows, batch.widths, strict=True):
                self._enter(row, width, batch.fired.device)
        self._select(batch.rows)
        revived = (self._silent >= self._window).logical_and_(self._silent < NEVER).logical_and_(batch.fired)
        self._silent = (self._silent + 1).masked_fill_(batch.fired, 0)
        return revived

    def _enter(self, row: int, width: int, device: torch.device) -> None:
        if row in self._rows or row in self._others:
            return
        before = self._before.pop(row, None)
        if before is None or len(before) != width:
            before = torch.full((width,), NEVER)
        self._others[row] = before.to(device)

    def memory(self) -> dict[int, Tensor]:
        """Return for how many batches each unit has been silent, by row: float32[units] on the CPU, a copy."""
        last = dict(zip(self._rows, torch.split(self._silent, self._widths), strict=True))
        return {row: t.to("cpu", copy=True) for row, t in {**self._before, **self._others, **last}.items()}

    def remember(self, memory: Mapping[int, Tensor]) -> None:
        """Go on from there in the rows of `memory`, where they turn out to have as many units."""
        self._others.update(zip(self._rows, torch.split(self._silent, self._widths), strict=True))
        self._rows, self._widths, self._silent = (), [], self._silent[:0]
        for row, units in memory.items():
            self._others.pop(row, None)
            self._before[row] = units

    def _running_counts(self, rows: tuple[int, ...], revived: Tensor) -> Tensor:
        self._select(rows)
        dead = self._silent >= self._window
        masks = torch.stack((dead, (self._silent > 0).logical_xor_(dead), revived))  # who is dead is silent, too
        # Integers, because a running sum of floats has no deterministic kernel on CUDA.
        return masks.cumsum(dim=1, dtype=torch.int32).index_select(1, self._ends)

    def _select(self, rows: tuple[int, ...]) -> None:
        if rows == self._rows:
            return
        self._others.update(zip(self._rows, torch.split(self._silent, self._widths), strict=True))
        chosen = [self._others.pop(row) for row in rows]
        self._rows, self._widths = rows, [len(units) for units in chosen]
        self._silent = torch.cat(chosen)
        self._ends = torch.tensor(np.cumsum(self._widths), device=self._silent.device) - 1


def _any(rows: tuple[int, ...], batches: Sequence[_Batch], masks: Sequence[Tensor]) -> Tensor:
    """Which units of `rows` are set in any of `masks`, each of which is over the rows of its batch: bool[units]."""
    if all(batch.rows == rows for batch in batches):
        return torch.stack([*masks]).any(dim=0) if len(masks) > 1 else masks[0]
    by_row: dict[int, Tensor] = {}
    for batch, mask in zip(batches, masks, strict=True):
        for row, part in zip(batch.rows, torch.split(mask, batch.widths), strict=True):
            by_row[row] = by_row[row] | part if row in by_row else part
    return torch.cat([by_row[row] for row in rows])


def unit_dimension(output: Tensor, producer: nn.Module | None) -> int:
    """Return the dimension of `output` that counts units, by what fed the activation: channels, else features.

    The number of dimensions alone does not tell: a convolution over a sequence gives out (N, C, L), a linear layer
    over one (N, L, C). Without a known `producer` four and five dimensions are taken for images and volumes.
    """
    if output.dim() <= 2:
        return -1
    if producer is None:
        return 1 if output.dim() in (4, 5) else -1
    channels = next((n for n in map(producer.__dict__.get, _CHANNELS) if n is not None), None)
    kernel = getattr(producer, "kernel_size", None)
    dimension = -1 - len(kernel) if isinstance(kernel, tuple) else 1
    fits = -output.dim() <= dimension < output.dim() and output.shape[dimension] == channels
    return dimension if fits else -1


_CHANNELS = ("out_channels", "num_features", "num_channels")
"""The attributes by which torch's convolutions, batch and instance norms, and group norm tell their channels."""
