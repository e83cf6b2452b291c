"""What a run knows about itself beside its records, as one JSON object, both ways."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from gradscope.records import (
    Coverage,
    Flight,
    InitialWeights,
    InputMoments,
    Ledger,
    Origin,
    OutputActivation,
    Overhead,
    RankOutlier,
    Run,
    SaturatingStack,
    Setup,
    Stop,
)
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
        "setup": dataclasses.asdict(run.setup),
        "origin": dataclasses.asdict(run.origin) if run.origin is not None else None,
        "flights": {code: flight_as_json(flight) for code, flight in run.flights.items()},
        "stop": dataclasses.asdict(run.stop) if run.stop is not None else None,
        "rank_outliers": [dataclasses.asdict(outlier) for outlier in run.rank_outliers],
    }


def fields_of(status: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a `Run` whose `status_of` is given; what this version does not know is left out.

    Raises:
        DamagedStatusError: a field is missing that has always been there, or one has a value that it cannot have.
    """
    try:
        ledger, origin, stop = status.get("ledger", {}), status.get("origin"), status.get("stop")
        return {
            "thresholds": _thresholds(status["thresholds"]),
            "coverage": _coverage(status["coverage"]),
            "overhead": _overhead(status["overhead"]),
            "ledger": Ledger(int(ledger.get("steps", 0)), int(ledger.get("skipped", 0))),
            "setup": _setup(status.get("setup", {})),
            "origin": _origin(origin) if origin is not None else None,
            "flights": {str(code): flight_of(flight) for code, flight in status.get("flights", {}).items()},
            "stop": Stop(int(stop["step"]), str(stop["code"])) if stop is not None else None,
            "rank_outliers": tuple(map(_rank_outlier, status.get("rank_outliers", ()))),
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


def _setup(content: Mapping[str, Any]) -> Setup:
    moments, stack, output = (content.get(name) for name in ("selu_input", "saturating_stack", "output_activation"))
    return Setup(
        selu_weights=tuple(map(_weights, content.get("selu_weights", ()))),
        selu_input=None if moments is None else _moments(moments),
        plain_dropouts={str(name): float(p) for name, p in content.get("plain_dropouts", {}).items()},
        normalized_selus=_names(content.get("normalized_selus", [])),
        saturating_stack=None if stack is None else _stack(stack),
        output_activation=None if output is None else _output(output),
        in_no_optimizer=_names(content.get("in_no_optimizer", [])),
        never_called=_names(content.get("never_called", [])),
    )


def _weights(content: Mapping[str, Any]) -> InitialWeights:
    omega, tau = float(content["omega"]), float(content["tau"])
    return InitialWeights(str(content["layer"]), omega, tau, _count(content["weights"], 1), _count(content["units"], 1))


def _moments(content: Mapping[str, Any]) -> InputMoments:
    return InputMoments(str(content["layer"]), float(content["mean"]), float(content["variance"]))


def _stack(content: Mapping[str, Any]) -> SaturatingStack:
    layers = _names(content["layers"])
    if not layers:
        raise ValueError(content)
    return SaturatingStack(layers, float(content["gradient_gain"]))


def _output(content: Mapping[str, Any]) -> OutputActivation:
    return OutputActivation(str(content["layer"]), str(content["type"]), _count(content["classes"]))


def _count(number: object, least: int = 0) -> int:
    if not isinstance(number, int) or not least <= number < 2**63:
        raise ValueError(number)
    return number


def _names(content: object) -> tuple[str, ...]:
    if not isinstance(content, list):
        raise ValueError(content)
    return tuple(map(str, content))


def _origin(content: Mapping[str, Any]) -> Origin:
    module, direction, operation = (str(content[name]) for name in ("module", "direction", "operation"))
    rank = content.get("rank")
    return Origin(int(content["step"]), module, direction, operation, None if rank is None else _count(rank))


def _rank_outlier(content: Mapping[str, Any]) -> RankOutlier:
    return RankOutlier(
        _count(content["rank"]),
        str(content["layer"]),
        str(content["metric"]),
        float(content["value"]),
        float(content["others"]),
        *(_count(content[name]) for name in ("first_step", "last_step")),
    )


def flight_as_json(flight: Flight) -> dict[str, object]:
    """Return `flight` as what JSON can hold; numbers may be NaN or infinite."""
    return {
        "steps": flight.steps.tolist(),
        "loss": flight.loss.tolist(),
        "layers": list(flight.layers),
        "grad_norm": [[float(f"{x:.6g}") for x in row] for row in flight.grad_norm.tolist()],
    }


def flight_of(content: Mapping[str, Any]) -> Flight:
    """Return the flight whose `flight_as_json` is given; any error if it is not."""
    steps, layers = np.array(content["steps"], dtype=np.int64), tuple(map(str, content["layers"]))
    return Flight(
        steps,
        np.array(content["loss"], dtype=np.float64).reshape(len(steps)),
        layers,
        np.array(content["grad_norm"], dtype=np.float32).reshape(len(steps), len(layers)),
    )
