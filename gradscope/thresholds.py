"""The numbers that separate healthy from sick, each with its source."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """What the rules compare measurements with.

    All fields are keyword-only and dimensionless unless said otherwise. Every field can be changed:
    ``GradScope(thresholds=Thresholds(dead_fraction=0.6))``; what was changed travels with the log, so that
    ``gradscope summary`` judges by the same numbers.

    Raises:
        ValueError: a field is not of its type, out of its range, or a pair of bounds not in order.
    """

    vanishing_ratio: float = 1e-3
    """Error signal at a layer relative to the largest among the layers nearest the loss, below which it has vanished.
    That is the gradient norm over √(1 + mean x²), where x is what the layer is given. AutoTrainer (Zhang et al., ICSE
    2021) calls ‖g₁‖/‖g_L‖ < 1e-3 vanishing."""

    exploding_ratio: float = 1e3
    """The same above which it has exploded: the mirror image of `vanishing_ratio`. Also how many times that of the
    start of training the gradient norm of the whole net may be, and how many times the norm of all weights in a run
    that does not survive it. Infinity finds nothing."""

    dead_fraction: float = 0.4
    """Share of a rectifier's units that fired for no sample in the window. A sound CNN on MNIST (97 % accuracy)
    has about 30 % in its dense layer, so the 20 to 30 % of folklore would flag it."""

    dead_window: int = 10
    """Recorded batches for which a unit must stay silent to count as dead, in batches. With records every
    10 steps and batches of 128 a unit is dead that fired for none of 1,280 samples spread over 100 steps."""

    saturated_fraction: float = 0.5
    """Share of a bounded activation's outputs within 1 % of a limit. Half of the outputs is the mark used by
    SageMaker Debugger's and DeepDiagnosis' saturation rules."""

    selu_mean: tuple[float, float] = (-0.1, 0.1)
    """Bounds on the mean of a SELU's output (Klambauer et al. 2017, theorem 1)."""

    selu_variance: tuple[float, float] = (0.8, 1.5)
    """Bounds on the variance of a SELU's output (Klambauer et al. 2017, theorem 1)."""

    selu_initial_steps: int = 1
    """Steps at the start of training in which SELUs outside their bounds are a fault, in steps. A net with
    LeCun-normal weights starts at the fixed point, and the first step of Adam may already move it away while it
    learns well: only what comes before the first update tells of the initialisation."""

    selu_tau: tuple[float, float] = (0.95, 1.1)
    """Bounds on the sum τ of the squared weights of a unit before a SELU, as a mean over the units of a layer
    (Klambauer et al. 2017, theorem 1); LeCun-normal weights have τ = 1."""

    selu_omega: tuple[float, float] = (-0.1, 0.1)
    """Bounds on the sum ω of the weights of a unit before a SELU, as a mean over the units of a layer (Klambauer et al.
    2017, theorem 1)."""

    update_ratio_high: float = 0.1
    """‖Δw‖ / ‖w‖ of a weight layer from which a step overwrites what was learned: a hundred times Karpathy's rule of
    thumb of 1e-3, and the mark of TheDeepChecker (log10 above −1)."""

    update_ratio_low: float = 1e-6
    """‖Δw‖ / ‖w‖ of a weight layer up to which it stands still: at that pace the weights have moved by a percent
    after ten thousand steps. A thousandth of Karpathy's rule of thumb."""

    uneven_ratio: float = 1e3
    """How many times the median update ratio of one weight layer that of another may be. Within a thousand both can
    still lie near the rule of thumb; beyond it one of them is frozen in all but name."""

    clip_coefficient: float = 0.2
    """What clipping leaves of the gradient norm in a typical step, up to which the clip value and not the gradient
    decides how far a step goes."""

    clipped_share: float = 0.9
    """Share of the steps that have to be clipped for that: a safety net acts on few."""

    persistence: float = 0.5
    """Share of the records in which a condition must hold before it is called a disease: a blip is not one."""

    minimum_records: int = 5
    """Records of a layer before a rule judges how it developed, in records."""

    def __post_init__(self) -> None:
        shares = ("vanishing_ratio", "dead_fraction", "saturated_fraction", "clip_coefficient", "clipped_share")
        for name in (*shares, "persistence"):
            self._check(name, lambda x: _is_number(x) and 0 < x <= 1, "a number in (0, 1]")
        for name in ("exploding_ratio", "uneven_ratio"):
            self._check(name, lambda x: _is_number(x) and x >= 1, "a number of at least 1")
        for name in ("update_ratio_high", "update_ratio_low"):
            self._check(name, lambda x: _is_number(x) and x > 0, "a number above 0")
        if self.update_ratio_low >= self.update_ratio_high:
            raise ValueError(
                f"`update_ratio_low` must be below `update_ratio_high`, got {self.update_ratio_low!r} and "
                f"{self.update_ratio_high!r}; a step cannot be too small and too large at once"
            )
        for name in ("dead_window", "selu_initial_steps", "minimum_records"):
            self._check(name, lambda x: type(x) is int and x >= 1, "an integer of at least 1")
        for name in ("selu_mean", "selu_variance", "selu_tau", "selu_omega"):
            self._check(name, _is_range, "a pair (low, high) with low < high")

    def _check(self, name: str, valid: Callable[[Any], bool], expected: str) -> None:
        value = getattr(self, name)
        if not valid(value):
            raise ValueError(f"`{name}` must be {expected}, got {value!r}; see `help(gradscope.Thresholds)`")

    def changed(self) -> dict[str, Any]:
        """Return the fields that differ from the defaults: what has to be written to a log."""
        default = Thresholds()
        return {
            f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != getattr(default, f.name)
        }

    @classmethod
    def restored(cls, changed: dict[str, Any]) -> "Thresholds":
        """Return the thresholds whose `changed()` is given; a field this version does not know is left out.

        Raises:
            ValueError: a value is not one that its field may have.
        """
        known = {f.name for f in fields(cls)}
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in changed.items() if k in known}
        return cls(**values)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _is_range(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(_is_number, value)) and value[0] < value[1]
