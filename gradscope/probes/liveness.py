"""Which units of a rectifier still fire: dead, dying and revived told apart."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from gradscope import stats
from gradscope.activations import RECTIFIER, Activation
from gradscope.probes.probe import Measured, Pending, Probe
from gradscope.records import Floats, Metric
from gradscope.thresholds import Thresholds

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
            Metric("dead_fraction", "dead units", "fraction", {RECTIFIER: (0, thresholds.dead_fraction)}),
            Metric("dying_fraction", "dying units", "fraction"),
            Metric("revived_fraction", "revived units", "fraction"),
        )
        self._batches: list[dict[int, Tensor]] = []
        """The peaks of each row, of each micro-batch of the step."""
        self._units = _Units()
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

    def memory(self) -> Mapping[int, Tensor]:
        return self._units.memory()

    def remember(self, memory: Mapping[int, Tensor]) -> None:
        self._units.remember(memory)

    def finish(self, layers: int) -> Pending:
        batches, self._batches = [batch for batch in self._batches if batch], []
        revived = [(tuple(batch), self._units.pass_batch(batch, self._window)) for batch in batches]
        rows = tuple(dict.fromkeys(row for batch in batches for row in batch))
        widths = np.array([self._widths[row] for row in rows], dtype=np.int64)

        def resolve(copy: Floats) -> Measured:
            fractions = np.full((3, layers), np.nan, dtype=np.float32)
            fractions[:, list(rows)] = np.diff(copy.reshape(3, -1), axis=1, prepend=0) / widths
            return Measured(dict(zip((m.name for m in self._metrics), fractions, strict=True)))

        if not rows:
            return Pending([], lambda copy: resolve(np.empty(0, dtype=np.float32)))
        return Pending([self._units.running_counts(rows, self._any(rows, revived), self._window)], resolve)

    def _any(self, rows: tuple[int, ...], masks: list[tuple[tuple[int, ...], Tensor]]) -> Tensor:
        """Which units of `rows` are set in any of `masks`, each of which is over rows of its own: bool[units]."""
        if all(own == rows for own, _ in masks):
            return torch.stack([mask for _, mask in masks]).any(dim=0) if len(masks) > 1 else masks[0][1]
        by_row: dict[int, Tensor] = {}
        for own, mask in masks:
            for row, part in zip(own, torch.split(mask, [self._widths[row] for row in own]), strict=True):
                by_row[row] = by_row[row] | part if row in by_row else part
        return torch.cat([by_row[row] for row in rows])


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

    def __init__(self) -> None:
        self._before: dict[int, Tensor] = {}
        """Of a fit that this one goes on from, the rows that have not been seen yet."""
        self._others: dict[int, Tensor] = {}
        self._rows: tuple[int, ...] = ()
        self._widths: list[int] = []
        self._silent = torch.zeros(0, dtype=torch.float32, device="cpu")
        self._ends = torch.zeros(0, dtype=torch.int64, device="cpu")

    def pass_batch(self, batch: dict[int, Tensor], window: int) -> Tensor:
        """Let a batch pass, row → peaks. Returns which units of these rows it revived: bool[units]."""
        for row, peaks in batch.items():
            if row not in self._rows and row not in self._others:
                before = self._before.pop(row, None)
                fits = before is not None and before.shape == peaks.shape
                self._others[row] = before.to(peaks) if before is not None and fits else torch.full_like(peaks, NEVER)
        self._select(tuple(batch))
        fired = torch.cat(list(batch.values())) > 0
        revived = fired & (self._silent >= window) & self._silent.isfinite()
        self._silent = torch.where(fired, 0.0, self._silent + 1)
        return revived

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

    def running_counts(self, rows: tuple[int, ...], revived: Tensor, window: int) -> Tensor:
        """Return the dead, dying and `revived` units up to the end of each of `rows`: int32[3, rows]."""
        self._select(rows)
        dead = self._silent >= window
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
