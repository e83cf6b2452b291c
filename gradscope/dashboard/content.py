"""What the page is told of a run, from a server and in a report file alike: objects that `to_json` can write."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from gradscope.explanations import EXPLANATIONS
from gradscope.records import Finding, Layer, Metric, Run
from gradscope.summary import as_json, is_unjudged, layer_severity, verdict, worst_severity

Content = dict[str, Any]

STATIC = Path(__file__).parent / "static"
"""The files of the page."""


def summary(run: Run, findings: Sequence[Finding]) -> Content:
    """Return what `findings` say of `run`, its globals over its steps, and what it was judged by.

    The field `summary` is what ``gradscope summary --json`` prints. A global that was never measured is left out.
    """
    return {
        "summary": as_json(run, findings),
        "verdict": verdict(run, findings),
        "severity": severity(run, findings),
        "layer_severity": {name: str(worst) for name, worst in layer_severity(findings).items()},
        **curves(run),
        "thresholds": asdict(run.thresholds),
        "explanations": {code: {"title": e.title, "metric": e.metric} for code, e in EXPLANATIONS.items()},
    }


def curves(run: Run) -> Content:
    """Return the steps of `run` and its globals over them."""
    measured = {name: values.tolist() for name, values in run.globals.items() if not np.isnan(values).all()}
    return {"steps": run.steps.tolist(), "globals": measured}


def severity(run: Run, findings: Sequence[Finding]) -> str:
    """Return the worst severity, ``"sound"``, or ``"unjudged"`` for a run too short to tell."""
    return "unjudged" if is_unjudged(run, findings) else str(worst_severity(findings) or "sound")


def metric(column: Metric) -> Content:
    """Return `column` by the names of its fields."""
    return {"name": column.name, "title": column.title, "unit": column.unit, "healthy": dict(column.healthy)}


def layer(row: Layer) -> Content:
    """Return `row` by the names of its fields."""
    return {"name": row.name, "type": row.type, "kind": row.kind}


def to_json(content: object) -> bytes:
    """Return `content` as ASCII JSON: NaN becomes null, an infinity ``"inf"`` or ``"-inf"``."""
    return json.dumps(_finite(content), allow_nan=False, separators=(",", ":")).encode()


def _finite(content: object) -> object:
    if isinstance(content, float):
        return content if math.isfinite(content) else None if math.isnan(content) else str(content)
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return content
