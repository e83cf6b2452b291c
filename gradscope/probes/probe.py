"""What every probe is: the moments of a step that it is told of, and the numbers that it gives back."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from gradscope.activations import Activation
from gradscope.model.moment import Moment
from gradscope.probes.layout import Layout
from gradscope.records import Float64s, Floats, Metric, NonFinite
from gradscope.thresholds import Thresholds

NONFINITE = Metric("nonfinite", "non-finite values", "flags")
"""Sum of `gradscope.NonFinite` flags: each probe measures its own, the recorder adds them up."""


@dataclass(frozen=True)
class Measured:
    """What a probe measured: metric → float32[layers], NaN where it has nothing to say; and globals of the step."""

    metrics: Mapping[str, Floats]
    globals: Mapping[str, float] = field(default_factory=dict)


class Pending(NamedTuple):
    """The numbers of a step while still on the device, and what makes sense of their copy on the host.

    `tensors` are flattened, cast to float32 and joined; `resolve` is given the joined copy, float32[n].
    """

    tensors: Sequence[Tensor]
    resolve: Callable[[Floats], Measured]


class Merging:
    """Turns the numbers that a probe shares, summed over ranks, into what was measured on all of them."""

    def size(self, layout: Layout) -> int:
        """Return how many numbers there are: the same on every rank."""
        raise NotImplementedError

    def measured(self, layout: Layout, sums: Float64s, layers: int) -> Measured:
        """Return what `sums`, float64[size], of a record tell of a model of `layers` rows; called once a record."""
        raise NotImplementedError

    def memory(self) -> Mapping[int, Tensor]:
        """As `Probe.memory`, of all ranks."""
        return {}

    def remember(self, memory: Mapping[int, Tensor]) -> None:
        """As `Probe.remember`."""


class Probe:
    """Measures something about the layers of a model at each recorded step; a step may hold several micro-batches.

    The moments below come in the order of a step, any number of times each; then `finish` comes once. An exception
    in `observe` switches off this probe for that layer, one in any other method switches off this probe.
    """

    def __init__(self, thresholds: Thresholds, exact: bool = False) -> None:
        """Prepare to measure by `thresholds`; `exact` from all elements where a sample of them would do."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What this probe measures."""
        raise NotImplementedError

    @property
    def unmeasured(self) -> Mapping[int, str]:
        """Rows of which something is not measured, and why."""
        return {}

    def begin_batch(self) -> None:
        """Begin a micro-batch: a module that runs in a loop is observed several times within one."""

    def observe(self, row: int, activation: Activation, output: Tensor, producer: nn.Module | None) -> None:
        """See the detached output of the activation in `row`, fed by the layer `producer`: reduce it, never keep it."""

    def after_backward(self, moment: Moment) -> None:
        """See gradients as a backward of manual optimization left them: nobody has clipped them yet."""

    def before_optimizer_step(self, moment: Moment) -> None:
        """See gradients before Lightning clips them, and weights before the step."""

    def after_optimizer_step(self, moment: Moment) -> None:
        """See them after the optimizer stepped: gradients are as it saw them, weights are new."""

    @property
    def units(self) -> Mapping[int, int]:
        """By row, how many units of an activation this probe counts on all ranks: those that it has seen."""
        return {}

    def merging(self) -> Merging | None:
        """Return what merges this probe's numbers of several ranks, with a state of its own; None where it has none.

        What has none is the same on all ranks, as gradients are that a strategy has averaged.
        """
        return None

    def share(self, layout: Layout) -> Tensor:
        """Return what this rank adds to the sums, right before `finish`: float64[size] on the device."""
        raise NotImplementedError

    def memory(self) -> Mapping[int, Tensor]:
        """Return what is remembered from one record to the next, by row: float32[units] on the CPU, a copy."""
        return {}

    def remember(self, memory: Mapping[int, Tensor]) -> None:
        """Go on from the `memory` of an earlier fit, in rows of this model."""

    def finish(self, layers: int) -> Pending:
        """End the step of a model of `layers` rows, and be ready for the next."""
        raise NotImplementedError

    def forget(self) -> None:
        """Let go of all tensors of the step: this probe was switched off, and the user may need their memory."""


def sum_by_layer(rows: npt.NDArray[np.int64], values: npt.NDArray[np.float64], layers: int) -> npt.NDArray[np.float64]:
    """Sum `values` by the row they belong to: float64[layers], NaN for a layer that has none. Row -1 is left out."""
    if not len(rows):
        return np.full(layers, np.nan)
    bins = rows + 1  # of which the first takes what is not watched
    sums = np.bincount(bins, weights=values, minlength=layers + 1)[1:].astype(np.float64, copy=False)
    sums[np.bincount(bins, minlength=layers + 1)[1:] == 0] = np.nan
    return sums


def flagged(rows: npt.NDArray[np.int64], bad: npt.NDArray[np.bool_], flag: NonFinite, layers: int) -> Floats:
    """Give `flag` to each layer that has a `bad` value, 0 to one that has values: float32[layers], else NaN."""
    return (np.sign(sum_by_layer(rows, bad.astype(np.float64), layers)) * flag).astype(np.float32)


def joined(parts: Iterable[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """Join rows: int64[n], also of no parts at all."""
    return np.concatenate([np.empty(0, dtype=np.int64), *parts])
