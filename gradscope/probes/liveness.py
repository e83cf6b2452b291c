"""Which units of a rectifier still fire: dead, dying and revived told apart."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from gradscope import stats
from gradscope.activations import RECTIFIER, Activation
from gradscope.probes.probe import Measured, Merging, Pending, Probe
from gradscope.ranks.layout import Float64s, Layout, pack, unpack, words
from gradscope.records import Metric
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
        width = self._widths.setdefault(row, units := peaks.shape[0])
        if width != units:
            raise ValueError(f"the number of units changed from {width} to {units}")
        batch[row] = torch.maximum(batch[row], peaks) if row in batch else peaks

    @property
    def units(self) -> Mapping[int, int]:
        return self._widths

    def merging(self) -> Merging:
        return _LivenessOfRanks(self._window)

    def share(self, layout: Layout) -> Tensor:
        rows, ends = _rectifiers(layout)
        batches = [batch for batch in self._batches if batch]
        device = next((peaks.device for batch in batches for peaks in batch.values()), torch.device("cpu"))
        ran = torch.zeros(layout.batches, len(rows), dtype=torch.float64, device=device)
        fired = torch.zeros(layout.batches, ends[-1], dtype=torch.bool, device=device)
        for number, batch in enumerate(batches):
            b = min(number, layout.batches - 1)  # more than were agreed on: these count as one
            for i, row in enumerate(rows):
                if row in batch:
                    ran[b, i] = 1
                    fired[b, ends[i] : ends[i + 1]] |= batch[row] > 0
        return torch.cat((ran.view(-1), pack(fired, layout.ranks).view(-1)))

    def finish(self, layers: int) -> Pending:
        batches, self._batches = [batch for batch in self._batches if batch], []
        if not batches:
            nothing = _fractions((), np.empty((3, 0)), self._widths, layers)
            return Pending([], lambda copy: nothing)
        rows, counts = self._units.pass_batches(batches)
        return Pending([counts], lambda copy: _fractions(rows, copy.reshape(3, -1), self._widths, layers))


def _fractions(
    rows: tuple[int, ...], counts: npt.NDArray[np.floating], widths: Mapping[int, int], layers: int
) -> Measured:
    """What `counts` of dead, dying and revived units up to the end of each of `rows` come to: fractions of a layer."""
    fractions = np.full((3, layers), np.nan, dtype=np.float32)
    fractions[:, list(rows)] = np.diff(counts, axis=1, prepend=0) / [widths[row] for row in rows]
    return Measured(dict(zip(FRACTIONS, fractions, strict=True)))


def _rectifiers(layout: Layout) -> tuple[list[int], list[int]]:
    """The rows whose units are counted, and where the units of each begin and end side by side: one more."""
    rows = [int(row) for row, width in zip(layout.rows, layout.widths, strict=True) if width]
    return rows, [0, *np.cumsum(layout.widths[layout.widths > 0]).tolist()]


class _LivenessOfRanks:
    """Counts units that are silent on all ranks: a batch is what all of them saw at once."""

    def __init__(self, window: int) -> None:
        self._units = _Units(window)

    def size(self, layout: Layout) -> int:
        rows, ends = _rectifiers(layout)
        return layout.batches * (len(rows) + words(ends[-1], layout.ranks))

    def measured(self, layout: Layout, sums: Float64s, layers: int) -> Measured:
        rows, ends = _rectifiers(layout)
        ran, packed = np.split(sums, [layout.batches * len(rows)])
        fired = torch.from_numpy(unpack(packed.reshape(layout.batches, -1), ends[-1], layout.ranks)).float()
        batches = [
            {row: fired[b, ends[i] : ends[i + 1]] for i, row in enumerate(rows) if seen[i]}
            for b, seen in enumerate(ran.reshape(layout.batches, -1))
        ]
        batches = [batch for batch in batches if batch]
        widths = dict(zip(layout.rows.tolist(), layout.widths.tolist(), strict=True))
        if not batches:
            return _fractions((), np.empty((3, 0)), widths, layers)
        silent, counts = self._units.pass_batches(batches)
        return _fractions(silent, counts.numpy(), widths, layers)


def _peaks(output: Tensor, dimension: int) -> Tensor:
    """The peak of each unit, or, where an eighth of the batch tells already that all units fire, that of this eighth.

    Whether a unit fires is all that is asked for, and to read a large output once more takes longer than all else.
    """
    shape = output.shape
    samples = shape[0] // 8 if len(shape) > 1 else 0
    if samples and output.numel() // shape[0] * samples >= ENOUGH * shape[dimension] and output.is_cpu:
        peaks = stats.unit_peaks(output[:samples], dimension)
        if bool((peaks > 0).all()):
            return peaks
    return stats.unit_peaks(output, dimension)


class _Units:
    """For how many batches each unit has been silent: state on the device, the rows of the last batch side by side.

    The rows of a batch are nearly always those of the batch before, and to take them apart and join them again costs
    more than all the arithmetic.
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self._others: dict[int, Tensor] = {}
        self._rows: tuple[int, ...] = ()
        self._widths: list[int] = []
        self._silent = torch.zeros(0, dtype=torch.float32, device="cpu")
        self._ends = torch.zeros(0, dtype=torch.int64, device="cpu")

    def pass_batches(self, batches: Sequence[dict[int, Tensor]]) -> tuple[tuple[int, ...], Tensor]:
        """Let the batches of a step pass, row → peaks; none of them is empty.

        Returns the rows that are in any of them, and the dead, dying and revived units up to the end of each:
        int32[3, rows].
        """
        revived = [(tuple(batch), self._pass(batch)) for batch in batches]
        rows = tuple(dict.fromkeys(row for batch in batches for row in batch))
        widths = {row: len(peaks) for batch in batches for row, peaks in batch.items()}
        return rows, self._running_counts(rows, _any(rows, revived, widths))

    def _pass(self, batch: dict[int, Tensor]) -> Tensor:
        """Let a batch pass. Returns which units of its rows it revived: bool[units]."""
        for row, peaks in batch.items():
            if row not in self._rows and row not in self._others:
                self._others[row] = torch.full_like(peaks, NEVER)
        self._select(tuple(batch))
        fired = torch.cat(list(batch.values())) > 0
        revived = fired & (self._silent >= self._window) & self._silent.isfinite()
        self._silent = torch.where(fired, 0.0, self._silent + 1)
        return revived

    def _running_counts(self, rows: tuple[int, ...], revived: Tensor) -> Tensor:
        self._select(rows)
        dead = self._silent >= self._window
        masks = torch.stack((dead, (self._silent > 0) & ~dead, revived))
        # Integers, because a running sum of floats has no deterministic kernel on CUDA.
        return masks.cumsum(dim=1, dtype=torch.int32)[:, self._ends]

    def _select(self, rows: tuple[int, ...]) -> None:
        if rows == self._rows:
            return
        self._others.update(zip(self._rows, torch.split(self._silent, self._widths), strict=True))
        chosen = [self._others.pop(row) for row in rows]
        self._rows, self._widths = rows, [len(units) for units in chosen]
        self._silent = torch.cat(chosen)
        self._ends = torch.tensor(np.cumsum(self._widths), device=self._silent.device) - 1


def _any(rows: tuple[int, ...], masks: list[tuple[tuple[int, ...], Tensor]], widths: Mapping[int, int]) -> Tensor:
    """Which units of `rows` are set in any of `masks`, each of which is over rows of its own: bool[units]."""
    if all(own == rows for own, _ in masks):
        return torch.stack([mask for _, mask in masks]).any(dim=0) if len(masks) > 1 else masks[0][1]
    by_row: dict[int, Tensor] = {}
    for own, mask in masks:
        for row, part in zip(own, torch.split(mask, [widths[row] for row in own]), strict=True):
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
