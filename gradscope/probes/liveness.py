"""Which units of a rectifier still fire: dead, dying and revived told apart."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from gradscope import stats
from gradscope.activations import RECTIFIER, classify
from gradscope.probes.probe import Measured, Pending, Probe
from gradscope.records import Floats, Metric
from gradscope.thresholds import Thresholds

NEVER = torch.inf
"""Batches since a unit last fired, for one that never did."""


class LivenessProbe(Probe):
    """Counts the units of each rectifier by the batches since each last fired: recorded batches, state on the device.

    `dead_fraction`: fired for no sample in the last `Thresholds.dead_window` batches, or never yet.
    `dying_fraction`: silent in the last batch, but not for so long. `revived_fraction`: fired in this step after
    having been dead, though alive once before. A unit is a channel of what a convolution or a batch, group or
    instance norm gives out, else a feature: an element of the last dimension.
    """

    def __init__(self, thresholds: Thresholds) -> None:
        super().__init__(thresholds)
        self._window = thresholds.dead_window
        self._metrics = (
            Metric("dead_fraction", "dead units", "fraction", {RECTIFIER: (0, thresholds.dead_fraction)}),
            Metric("dying_fraction", "dying units", "fraction"),
            Metric("revived_fraction", "revived units", "fraction"),
        )
        self._peaks: list[tuple[int, Tensor]] = []
        self._silent: dict[int, Tensor] = {}

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return self._metrics

    def observe(self, row: int, module: nn.Module, output: Tensor, producer: nn.Module | None) -> None:
        activation = classify(c.__name__ for c in type(module).__mro__)
        if activation is not None and activation.kind == RECTIFIER:
            peaks = stats.unit_peaks(output, unit_dimension(output, producer))
            # The output itself may be its own peak, and the next module may overwrite it in place.
            self._peaks.append((row, peaks.to(torch.float32, copy=True)))

    def finish(self, layers: int) -> Pending:
        revived: dict[int, Tensor] = {}
        for batch in _batches(self._peaks):
            for row, mask in self._update(batch).items():
                revived[row] = revived[row] | mask if row in revived else mask
        self._peaks = []
        rows = np.array(list(revived), dtype=np.int64)
        silent = [self._silent[row] for row in revived]
        dead = [s >= self._window for s in silent]
        dying = [(s > 0) & ~d for s, d in zip(silent, dead, strict=True)]

        def resolve(copy: Floats) -> Measured:
            fractions = np.full((3, layers), np.nan, dtype=np.float32)
            fractions[:, rows] = copy.reshape(3, -1) / np.array([len(s) for s in silent], dtype=np.float32)
            return Measured(dict(zip((m.name for m in self._metrics), fractions, strict=True)))

        return Pending([stats.counts([*dead, *dying, *revived.values()])], resolve)

    def _update(self, batch: dict[int, Tensor]) -> dict[int, Tensor]:
        """Let one batch pass: at most one output of each row. Returns which units it revived."""
        for row, peaks in batch.items():
            if row not in self._silent or self._silent[row].shape != peaks.shape:
                self._silent[row] = torch.full_like(peaks, NEVER)
        widths = [len(peaks) for peaks in batch.values()]
        fired = torch.cat(list(batch.values())) > 0
        silent = torch.cat([self._silent[row] for row in batch])
        revived = fired & (silent >= self._window) & silent.isfinite()
        silent = torch.where(fired, 0.0, silent + 1)
        self._silent.update(zip(batch, torch.split(silent, widths), strict=True))
        return dict(zip(batch, torch.split(revived, widths), strict=True))


def unit_dimension(output: Tensor, producer: nn.Module | None) -> int:
    """Return the dimension of `output` that counts units, by what fed the activation: channels, else features.

    The number of dimensions alone does not tell: a convolution over a sequence gives out (N, C, L), a linear layer
    over one (N, L, C). Without a known `producer` four and five dimensions are taken for images and volumes.
    """
    channels = next((n for n in map(producer.__dict__.get, _CHANNELS) if n is not None), None) if producer else None
    if producer is None:
        return 1 if output.dim() in (4, 5) else -1
    kernel = getattr(producer, "kernel_size", None)
    dimension = -1 - len(kernel) if isinstance(kernel, tuple) else 1
    fits = -output.dim() <= dimension < output.dim() and output.shape[dimension] == channels
    return dimension if fits else -1


_CHANNELS = ("out_channels", "num_features", "num_channels")
"""The attributes by which torch's convolutions, batch and instance norms, and group norm tell their channels."""


def _batches(peaks: Iterable[tuple[int, Tensor]]) -> list[dict[int, Tensor]]:
    """Part observations into batches: the second of the same row belongs to the second micro-batch."""
    batches: list[dict[int, Tensor]] = []
    for row, peak in peaks:
        batch = next((b for b in batches if row not in b), None)
        if batch is None:
            batch = {}
            batches.append(batch)
        batch[row] = peak
    return batches
