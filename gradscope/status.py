"""What a run knows about itself beside its records, as one JSON object, both ways."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from gradscope.records import Coverage, Flight, Ledger, Origin, Overhead, Run
from gradscope.thresholds import Thresholds


class DamagedStatusError(ValueError):
    """A status that is not what `status_of` writes."""


def status_of(run: Run) -> dict[str, object]:
    """Return what `run` knows about itself, as what JSON can hold; numbers may be NaN or infinite."""
    return {
        "thresholds": run.thresholds.changed(),
        "coverage": {"unseen": dict(run.coverage.unseen), "measured": dict(run.coverage.measured)},
        "overhead": dataclasses.asdict(run.overhead),
        "ledger": dataclasses.asdict(run.ledger),
        "origin": dataclasses.asdict(run.origin) if run.origin is not None else None,
        "flights": {code: _flight_as_json(flight) for code, flight in run.flights.items()},
    }


def fields_of(status: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a `Run` whose `status_of` is given; what this version does not know is left out.

    Raises:
        DamagedStatusError: a field is missing that has always been there, or one has a value that it cannot have.
    """
    try:
        ledger, origin = status.get("ledger", {}), status.get("origin")
        return {
            "thresholds": _thresholds(status["thresholds"]),
            "coverage": _coverage(status["coverage"]),
            "overhead": _overhead(status["overhead"]),
            "ledger": Ledger(int(ledger.get("steps", 0)), int(ledger.get("skipped", 0))),
            "origin": _origin(origin) if origin is not None else None,
            "flights": {str(code): _flight(flight) for code, flight in status.get("flights", {}).items()},
        }
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise DamagedStatusError("`status` must be what `status_of` returns, as JSON gives it back") from error


def is_number(value: object) -> bool:
    """Say whether `value` is a number other than NaN that a float can hold: any other would raise much later."""
    return (isinstance(value, int) and abs(value) < 2**63) or (isinstance(value, float) and not math.isnan(value))


def _thresholds(changed: Mapping[str, Any]) -> Thresholds:
    for value in changed.values():
        if not (is_number(value) or (isinstance(value, list) and len(value) == 2 and all(map(is_number, value)))):
            raise ValueError(value)
    return Thresholds.restored(dict(changed))


def _coverage(content: Mapping[str, Any]) -> Coverage:
    measured = _numbers(content.get("measured", {}))
    unseen = {str(what): str(why) for what, why in content["unseen"].items()}
    return Coverage(unseen, {str(what): int(number) for what, number in measured.items()})


def _overhead(content: Mapping[str, Any]) -> Overhead:
    known = {f.name for f in dataclasses.fields(Overhead)}
    return Overhead(**{name: value for name, value in _numbers(content).items() if name in known})


def _numbers(content: Mapping[str, Any]) -> Mapping[str, Any]:
    if not all(map(is_number, content.values())):
        raise ValueError(content)
    return content


def _origin(content: Mapping[str, Any]) -> Origin:
    return Origin(int(content["step"]), *(str(content[name]) for name in ("module", "direction", "operation")))


def _flight_as_json(flight: Flight) -> dict[str, object]:
    return {
        "steps": flight.steps.tolist(),
        "loss": flight.loss.tolist(),
        "layers": list(flight.layers),
        "grad_norm": [[float(f"{x:.6g}") for x in row] for row in flight.grad_norm.tolist()],
    }


def _flight(content: Mapping[str, Any]) -> Flight:
    steps, layers = np.array(content["steps"], dtype=np.int64), tuple(map(str, content["layers"]))
    return Flight(
        steps,
        np.array(content["loss"], dtype=np.float64).reshape(len(steps)),
        layers,
        np.array(content["grad_norm"], dtype=np.float32).reshape(len(steps), len(layers)),
    )
