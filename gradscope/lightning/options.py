"""The options of `GradScope`: what a user may give, checked, with an error that says what to give instead.

Each function raises TypeError for what is of another type, ValueError for what is out of range.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from gradscope.lightning.actions import DEFAULT_ACTIONS, Action
from gradscope.records import Severity
from gradscope.thresholds import Thresholds

LOG_PARTS = ("tensors", "scalars", "layers", "distribution", "heat_map", "verdicts")
"""What can go to a logger: the record itself, as `gradscope summary` reads it; aggregates over layers; scalars of each
layer while there are at most 32; a histogram over layers; an image of layers by steps; a table of findings."""


def every_n_steps(value: int | None, budget: float | None) -> int | None:
    """Return the steps between records, an integer of at least 1: None where `budget` chooses them, or nobody does."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"`every_n_steps` must be an integer, got {value!r}; give the number of steps between records")
    if value < 1:
        raise ValueError(f"`every_n_steps` must be at least 1, got {value}; 1 records every step")
    if budget is not None:
        raise ValueError(f"`every_n_steps` must be left out where `budget` chooses it, got {value}; give one")
    return value


def budget(value: float | None) -> float | None:
    """Return the share of the step time that GradScope may take: a number in (0, 1], or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"`budget` must be a number, got {value!r}; 0.02 lets it take two percent of a step")
    if not 0 < value <= 1:
        raise ValueError(f"`budget` must be a share in (0, 1], got {value}; 0.02 lets it take two percent of a step")
    return float(value)


def flight_recorder(value: int) -> int:
    """Return how many steps the flight recorder keeps: an integer of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"`flight_recorder` must be an integer, got {value!r}; give the number of steps to keep")
    if value < 0:
        raise ValueError(f"`flight_recorder` must be at least 0, got {value}; 0 keeps none")
    return value


def exact(value: bool) -> bool:
    """Return whether to measure from all elements."""
    if not isinstance(value, bool):
        raise TypeError(f"`exact` must be True or False, got {value!r}; True measures from all elements, not a sample")
    return value


def summary(value: bool) -> bool:
    """Return whether to print at the end of a fit."""
    if not isinstance(value, bool):
        raise TypeError(f"`summary` must be True or False, got {value!r}; False prints nothing at the end of a fit")
    return value


def thresholds(value: Thresholds | None) -> Thresholds:
    """Return the thresholds, the default ones for None."""
    if value is not None and not isinstance(value, Thresholds):
        raise TypeError(
            f"`thresholds` must be a gradscope.Thresholds, got {value!r}; Thresholds(dead_fraction=0.6), say"
        )
    return value or Thresholds()


def patterns(value: str | Sequence[str]) -> tuple[str, ...]:
    """Return the glob patterns: one or several, none of them empty."""
    given = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Sequence) else ()
    if not given or not all(isinstance(p, str) and p.removeprefix("!") for p in given):
        raise TypeError(f"`layers` must be a glob pattern or several, got {value!r}; ['encoder.*', '!*.norm'], say")
    return given


def log_parts(value: bool | Collection[str]) -> frozenset[str]:
    """Return which of `LOG_PARTS` to log."""
    if isinstance(value, bool):
        return frozenset(LOG_PARTS if value else ())
    if isinstance(value, str) or not isinstance(value, Collection):
        raise TypeError(
            f"`log` must be True, False or a collection of {', '.join(LOG_PARTS)}, got {value!r}; ['tensors'], say"
        )
    if unknown := [part for part in value if part not in LOG_PARTS]:
        raise ValueError(f"`log` must hold some of {', '.join(LOG_PARTS)}, got {unknown[0]!r}; leave it out")
    return frozenset(value)


def on_finding(value: str | Mapping[str | Severity, str]) -> Mapping[Severity, Action]:
    """Return what to do about findings of each severity: one action for warnings and critical ones, or a mapping."""
    given = {Severity.WARNING: value, Severity.CRITICAL: value} if isinstance(value, str) else value
    if not isinstance(given, Mapping):
        raise TypeError(
            f"`on_finding` must be an action or a mapping of severities to actions, got {value!r}; "
            "{'critical': 'stop'}, say"
        )
    return {**DEFAULT_ACTIONS, **{_severity(severity): _action(action) for severity, action in given.items()}}


CHECKS: Mapping[str, Callable[[Any], object]] = {
    "budget": budget,
    "layers": patterns,
    "thresholds": thresholds,
    "exact": exact,
    "flight_recorder": flight_recorder,
    "on_finding": on_finding,
    "log": log_parts,
    "summary": summary,
}
"""How each option is checked that is checked by itself: all but `every_n_steps`."""


def check(given: Mapping[str, Any]) -> None:
    """Check options as `GradScope` does, which need not be imported for it."""
    every_n_steps(given.get("every_n_steps"), given.get("budget"))
    for name, value in given.items():
        if name != "every_n_steps":
            CHECKS[name](value)


def _severity(value: object) -> Severity:
    if isinstance(value, Severity):
        return value
    known = {str(severity): severity for severity in Severity}
    if not isinstance(value, str) or value not in known:
        raise ValueError(
            f"`on_finding` must have keys among {', '.join(known)}, got {value!r}; {{'critical': 'stop'}}, say"
        )
    return known[value]


def _action(value: object) -> Action:
    known = {str(action): action for action in Action}
    if not isinstance(value, str) or value not in known:
        raise ValueError(
            f"`on_finding` must name actions among {', '.join(known)}, got {value!r}; 'stop' ends the fit cleanly"
        )
    return known[value]
