"""Which units of a rectifier still fire: dead, dying and revived told apart."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from gradscope import stats
from gradscope.activations import RECTIFIER, Activation
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
        self._batches: list[dict[int, Tensor]] = []
        """The peaks of each row, of each micro-batch of the step."""
        self._silent: dict[int, Tensor] = {}
        self._ends: tuple[tuple[int, ...], Tensor] = ((), torch.zeros(0))

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return self._metrics

    def begin_batch(self) -> None:
        self._batches.append({})

    def observe(self, row: int, activation: Activation, output: Tensor, producer: nn.Module | None) -> None:
        if activation.kind != RECTIFIER:
            return
        peaks = stats.unit_peaks(output, unit_dimension(output, producer)).float()
        batch = self._batches[-1]
        known = batch.get(row, self._silent.get(row))
        if known is not None and known.shape != peaks.shape:
            raise ValueError(f"the number of units changed from {len(known)} to {len(peaks)}")
        batch[row] = torch.maximum(batch[row], peaks) if row in batch else peaks

    def finish(self, layers: int) -> Pending:
        revived: dict[int, Tensor] = {}
        for batch in filter(None, self._batches):
            for row, mask in self._update(batch).items():
                revived[row] = revived[row] | mask if row in revived else mask
        self._batches = []
        rows = np.array(list(revived), dtype=np.int64)
        widths = np.array([len(mask) for mask in revived.values()], dtype=np.int64)

        def resolve(copy: Floats) -> Measured:
            fractions = np.full((3, layers), np.nan, dtype=np.float32)
            fractions[:, rows] = np.diff(copy.reshape(3, -1), axis=1, prepend=0) / widths
            return Measured(dict(zip((m.name for m in self._metrics), fractions, strict=True)))

        return Pending([self._running_counts(revived, widths)] if revived else [torch.zeros(0)], resolve)

    def _running_counts(self, revived: dict[int, Tensor], widths: npt.NDArray[np.int64]) -> Tensor:
        """Dead, dying and revived units up to the end of each row of `revived`: int32[3, rows]."""
        silent = torch.cat([self._silent[row] for row in revived])
        dead = silent >= self._window
        masks = torch.stack((dead, (silent > 0) & ~dead, torch.cat(list(revived.values()))))
        ends = tuple(np.cumsum(widths).tolist())
        if ends != self._ends[0] or self._ends[1].device != silent.device:
            self._ends = ends, torch.tensor(ends, device=silent.device) - 1
        # Integers, because a running sum of floats has no deterministic kernel on CUDA.
        return masks.cumsum(dim=1, dtype=torch.int32)[:, self._ends[1]]

    def _update(self, batch: dict[int, Tensor]) -> dict[int, Tensor]:
        """Let a batch pass, row → peaks. Returns which units it revived."""
        for row, peaks in batch.items():
            if row not in self._silent:
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
