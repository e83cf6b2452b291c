"""GradScope for a script that does not name it: what Lightning asks, at each Trainer, for callbacks to add.

It is off unless the environment variable GRADSCOPE is 1; GRADSCOPE_OPTIONS may then hold the options as a JSON object.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradscope.thresholds import Thresholds

SWITCH, OPTIONS = "GRADSCOPE", "GRADSCOPE_OPTIONS"
ON, OFF = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")

trainers = 0
"""How many Trainers of this process have asked."""


def callbacks() -> list[Any]:
    """Return the callbacks that a new Trainer gets: GradScope, or none and nothing is imported."""
    global trainers
    trainers += 1
    switch = os.environ.get(SWITCH, "").strip().lower()
    if switch in OFF:
        return []
    try:
        if switch not in ON:
            raise ValueError(f"`{SWITCH}` must be 1 or 0, got {switch!r}; 1 attaches GradScope to every Trainer")
        from gradscope.lightning.attached import AttachedGradScope

        return [AttachedGradScope(**as_arguments(os.environ.get(OPTIONS) or "{}"))]
    except Exception as error:  # it must not end a training that would do without it
        from gradscope.messages import say
        from gradscope.wording import one_line

        say(one_line(f"is off, because the environment cannot be followed: {error}"))
        return []


def switched_on(options: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment in which each Trainer gets a GradScope with such `options`."""
    return {SWITCH: "1", OPTIONS: json.dumps(dict(options))}


def as_arguments(options: str) -> dict[str, Any]:
    """Return the arguments of `GradScope` that GRADSCOPE_OPTIONS holds.

    Raises:
        ValueError: they are no JSON object, or a threshold has no such value.
        TypeError: a threshold has no such name.
    """
    try:
        arguments = json.loads(options)
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        raise ValueError(f"`{OPTIONS}` must be a JSON object, got {options!r}; " + '{"every_n_steps": 5}, say')
    if isinstance(changed := arguments.get("thresholds"), dict):
        arguments["thresholds"] = _thresholds(changed)
    return arguments


def _thresholds(changed: Mapping[str, Any]) -> "Thresholds":
    from gradscope.thresholds import Thresholds
    from gradscope.wording import suggestion

    known = [field.name for field in fields(Thresholds)]
    if unknown := [name for name in changed if name not in known]:
        advice = suggestion(unknown[0], known, f"there are {', '.join(known)}")
        raise TypeError(f"`thresholds` must hold fields of gradscope.Thresholds, got {unknown[0]!r}; {advice}")
    # JSON knows no tuples.
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in changed.items()
    }
    return Thresholds(**given)
