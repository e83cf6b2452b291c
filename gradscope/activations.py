"""What the activation classes are: which can die, which saturate and at what limits, which normalise themselves."""

from collections.abc import Iterable
from typing import NamedTuple

RECTIFIER = "rectifier"
"""Exactly zero on half of its inputs, with no gradient there: its units can die."""

SATURATING = "saturating"
"""Bounded on both sides, with a slope that goes to zero at both limits."""

SELF_NORMALIZING = "self_normalizing"
"""SELU: keeps its outputs near mean 0 and variance 1 (Klambauer et al. 2017)."""

SMOOTH = "smooth"
"""Neither dead on a half-line nor bounded on both sides: leaky, exponential and gated units."""


class Activation(NamedTuple):
    """What an activation class is; `limits` are the lower and upper bound of its output, where both exist."""

    kind: str
    limits: tuple[float, float] | None = None


ACTIVATIONS: dict[str, Activation] = {
    "ReLU": Activation(RECTIFIER),
    "ReLU6": Activation(RECTIFIER),
    "Sigmoid": Activation(SATURATING, (0.0, 1.0)),
    "Hardsigmoid": Activation(SATURATING, (0.0, 1.0)),
    "Tanh": Activation(SATURATING, (-1.0, 1.0)),
    "Hardtanh": Activation(SATURATING, (-1.0, 1.0)),
    "Softsign": Activation(SATURATING, (-1.0, 1.0)),
    "SELU": Activation(SELF_NORMALIZING),
    "ELU": Activation(SMOOTH),
    "CELU": Activation(SMOOTH),
    "GELU": Activation(SMOOTH),
    "SiLU": Activation(SMOOTH),
    "Mish": Activation(SMOOTH),
    "Hardswish": Activation(SMOOTH),
    "LeakyReLU": Activation(SMOOTH),
    "PReLU": Activation(SMOOTH),
    "RReLU": Activation(SMOOTH),
    "Softplus": Activation(SMOOTH),
    "LogSigmoid": Activation(SMOOTH),
}


def clipped(low: float, high: float) -> Activation:
    """Return what a Hardtanh with these limits is: cut off below at zero it dies like a ReLU."""
    return Activation(RECTIFIER) if low == 0 else Activation(SATURATING, (low, high))


def classify(class_names: Iterable[str]) -> Activation | None:
    """Return what the first known of `class_names` is, or None where none is known.

    Give the names along a class's method resolution order, so that a subclass counts as its base:
    ``classify(c.__name__ for c in type(module).__mro__)``. An empty iterable gives None.
    """
    return next((ACTIVATIONS[name] for name in class_names if name in ACTIVATIONS), None)
