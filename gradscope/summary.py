"""A run and its findings in brief: the verdict in a sentence, the last values, and the object that JSON holds."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from gradscope.records import Finding, Flight, Floats, Metric, Run, Severity
from gradscope.rules.causes import in_order
from gradscope.wording import counted

METRIC_ORDER = (
    "grad_norm",
    "update_ratio",
    "act_mean",
    "act_var",
    "dead_fraction",
    "zero_fraction",
    "saturated_fraction",
    "nonfinite",
    "no_gradient_fraction",
    "grad_norm_clipped",
    "weight_norm",
    "dying_fraction",
    "revived_fraction",
)
"""In which the table of the terminal and the tab show metrics: what a verdict rests on first."""


class LayerSummary(TypedDict):
    """A layer as JSON: `metrics` maps a metric's name to its last finite value, null where there is none."""

    name: str
    type: str
    kind: str
    metrics: dict[str, float | None]


class RunSummary(TypedDict):
    """A run as JSON. `first_step` and `last_step` are null where nothing was recorded."""

    name: str
    records: int
    first_step: int | None
    last_step: int | None
    layers: list[LayerSummary]
    findings: list[dict[str, Any]]
    coverage: dict[str, dict[str, Any]]
    overhead: dict[str, float | None]
    ledger: dict[str, int]
    origin: dict[str, Any] | None
    flights: dict[str, dict[str, Any]]
    stop: dict[str, Any] | None
    notes: list[str]


def as_json(run: Run, findings: Sequence[Finding]) -> RunSummary:
    """Return what ``--json`` prints of a run: ``json.dumps(..., allow_nan=False)`` takes it whatever the values.

    `findings` are listed in the order given. A number that is not finite becomes null, one in a finding's
    evidence ``"nan"`` or ``"inf"``.
    """
    return {
        "name": run.name,
        "records": len(run.steps),
        "first_step": int(run.steps[0]) if len(run.steps) else None,
        "last_step": int(run.steps[-1]) if len(run.steps) else None,
        "layers": _layers(run),
        "findings": [finding.as_dict() for finding in findings],
        "coverage": {"unseen": dict(run.coverage.unseen), "measured": dict(run.coverage.measured)},
        "overhead": {
            "records": run.overhead.records,
            "gradscope_seconds": _number(run.overhead.gradscope_seconds),
            "fit_seconds": _number(run.overhead.fit_seconds),
            "every_n_steps": run.overhead.every_n_steps,
        },
        "ledger": asdict(run.ledger),
        "origin": asdict(run.origin) if run.origin is not None else None,
        "flights": {code: _flight(flight) for code, flight in run.flights.items()},
        "stop": asdict(run.stop) if run.stop is not None else None,
        "notes": list(run.notes),
    }


def in_order_shown(columns: Iterable[Metric]) -> tuple[Metric, ...]:
    """Return `columns` in the order shown; those that this version does not know come behind, by their names."""
    order = {name: i for i, name in enumerate(METRIC_ORDER)}
    return tuple(sorted(columns, key=lambda column: (order.get(column.name, len(order)), column.name)))


def last_finite(values: Floats) -> npt.NDArray[np.float64]:
    """Return the last finite value of each column of `values`, float32[S, L], as float64[L]: NaN where none is."""
    if not len(values):
        return np.full(values.shape[1], np.nan)
    finite = np.isfinite(values)
    last = len(values) - 1 - finite[::-1].argmax(axis=0)
    return np.where(finite.any(axis=0), values[last, np.arange(values.shape[1])], np.nan).astype(np.float64)


def layer_severity(findings: Sequence[Finding]) -> Mapping[str, Severity]:
    """Return the worst severity, warning or critical, of each layer that `findings` name."""
    severities: dict[str, Severity] = {}
    for finding in findings:
        if finding.severity >= Severity.WARNING:
            for layer in finding.layers:
                severities[layer] = max(finding.severity, severities.get(layer, finding.severity))
    return severities


def worst_severity(findings: Sequence[Finding]) -> Severity | None:
    """Return the worst severity of `findings`, or None where there are none."""
    return max((finding.severity for finding in findings), default=None)


def is_unjudged(run: Run, findings: Sequence[Finding]) -> bool:
    """Say whether nothing was found in a run too short to tell how it develops."""
    return not findings and len(run.steps) < run.thresholds.minimum_records


def verdict(run: Run, findings: Sequence[Finding]) -> str:
    """Return in one sentence, without its full stop, what is wrong with `run`, or that nothing is.

    Remarks (severity info) are no disease. A run too short to be judged is said to be.
    """
    worst = next(iter(in_order(findings)), None)
    if worst is not None and worst.severity > Severity.INFO:
        return f"{counted(len(findings), 'finding')}: {worst.severity} {worst.code} {_extent(worst)}"
    if not len(run.steps):
        return "nothing was recorded"
    sound = f"no disease found in {counted(len(run.layers), 'layer')} over {counted(len(run.steps), 'record')}"
    if worst is not None:
        return f"{sound}; {counted(len(findings), 'remark')}: {worst.code} {_extent(worst)}"
    if is_unjudged(run, findings):
        return f"{sound}, too few to tell how they develop"
    return sound


def _extent(finding: Finding) -> str:
    return f"in {counted(len(finding.layers), 'layer')}" if finding.layers else "in the whole net"


def _layers(run: Run) -> list[LayerSummary]:
    names = dict.fromkeys([*(column.name for column in run.columns), *run.metrics])
    last = {name: last_finite(run.metric(name)) for name in names}
    return [
        {
            "name": layer.name,
            "type": layer.type,
            "kind": layer.kind,
            "metrics": {name: _number(values[i]) for name, values in last.items()},
        }
        for i, layer in enumerate(run.layers)
    ]


def _flight(flight: Flight) -> dict[str, Any]:
    return {
        "steps": flight.steps.tolist(),
        "loss": [_number(x) for x in flight.loss.tolist()],
        "layers": list(flight.layers),
        "grad_norm": [[_number(x) for x in row] for row in flight.grad_norm.tolist()],
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
