"""What the page is told of a run: objects that JSON can hold, the same from a server and in a report file."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from gradscope.explanations import EXPLANATIONS
from gradscope.records import Finding, Layer, Metric, Run
from gradscope.rules.causes import in_order
from gradscope.summary import as_json, layer_severity, verdict, worst_severity

Json = dict[str, Any]


def summary_content(run: Run, findings: Sequence[Finding]) -> Json:
    """Return the verdict on `run`, its findings in the order in which they are told, and its globals over steps.

    `summary` is what ``gradscope summary --json`` prints of the run. A global that was never measured is left out.
    """
    ordered = in_order(findings)
    return {
        "summary": as_json(run, ordered),
        "verdict": verdict(run, ordered),
        "severity": severity_word(run, ordered),
        "layer_severity": {name: str(severity) for name, severity in layer_severity(ordered).items()},
        "steps": run.steps.tolist(),
        "globals": {name: numbers(values) for name, values in run.globals.items() if not np.isnan(values).all()},
        "thresholds": asdict(run.thresholds),
        "explanations": {code: {"title": e.title, "metric": e.metric} for code, e in EXPLANATIONS.items()},
    }


def severity_word(run: Run, findings: Sequence[Finding]) -> str:
    """Return the worst severity, ``"sound"``, or ``"unjudged"`` for a run too short to tell."""
    worst = worst_severity(findings)
    if worst is not None:
        return str(worst)
    return "sound" if len(run.steps) >= run.thresholds.minimum_records else "unjudged"


def layer_content(layer: Layer) -> Json:
    """Return `layer` by the names of its fields."""
    return asdict(layer)


def metric_content(metric: Metric) -> Json:
    """Return `metric` by the names of its fields, its healthy ranges as pairs."""
    healthy: Mapping[str, tuple[float, float]] = metric.healthy
    return {**asdict(metric), "healthy": {kind: list(limits) for kind, limits in healthy.items()}}


def numbers(values: npt.NDArray[np.floating[Any]]) -> list[float | str | None]:
    """Return `values` as JSON knows them: null for NaN, ``"inf"`` and ``"-inf"`` for infinities."""
    return [x if math.isfinite(x) else None if math.isnan(x) else str(x) for x in values.tolist()]
