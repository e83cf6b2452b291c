"""What the page is sent: runs as JSON, and a metric of a run as a header with a matrix."""

import dataclasses
import hashlib
import json
import math
import re
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from gradscope.cells import measured_cells
from gradscope.dashboard.cache import Judged
from gradscope.dashboard.provided_runs import ListedRun, Sample
from gradscope.explanations import EXPLANATIONS
from gradscope.records import Layer, Metric, Run
from gradscope.summary import as_json, layer_severity, verdict, worst_severity

TOKEN = re.compile(r"-?[0-9]{1,19}_[0-9a-f]{16}")
"""What `after` may be: the step of a record, and a digest of all that must not have changed since."""


def runs(listed: Mapping[str, ListedRun], severities: Mapping[str, str]) -> dict[str, Any]:
    """Return the list of runs, in the order given; `severities` are those that the callback logged, by run."""
    return {
        "runs": [
            {
                "name": run.name,
                "version": run.version,
                "last_step": run.last_step,
                "last_wall_time": run.last_wall_time,
                "severity": severities.get(run.name),
                "metrics": [_metric(metric) for metric in run.columns()],
            }
            for run in listed.values()
        ]
    }


def matrix(sample: Sample, metric: Metric, after: str | None = None) -> bytes:
    """Return u32 the length of the header, the header as JSON padded to 4 bytes, and float32[S, L], little-endian.

    The cells are `measured_cells`. With the token of an earlier answer only the records behind the one that it stands
    for, unless anything up to that one has changed.
    """
    run = sample.run
    first = _already_sent(run, metric, after)
    cells = measured_cells(run, metric.name)[first:]
    header = to_json(
        {
            "run": run.name,
            "metric": _metric(metric),
            "steps": run.steps[first:].tolist(),
            "layers": [_layer(layer) for layer in run.layers],
            "complete": sample.complete,
            "appended": first > 0,
            "token": _token(run, metric, len(run.steps)),
        }
    )
    header += b" " * (-len(header) % 4)
    return struct.pack("<I", len(header)) + header + cells.astype("<f4", copy=False).tobytes()


def summary(judged: Judged, version: str) -> dict[str, Any]:
    """Return what the rules say of a run, its globals, and what they were judged by."""
    run, findings = judged.run, judged.findings
    return {
        "version": version,
        "summary": as_json(run, findings),
        "verdict": verdict(run, findings),
        "severity": _severity(judged),
        "layer_severity": {name: str(severity) for name, severity in layer_severity(findings).items()},
        "steps": run.steps.tolist(),
        "globals": {name: values.tolist() for name, values in run.globals.items() if not np.isnan(values).all()},
        "thresholds": {f.name: getattr(run.thresholds, f.name) for f in dataclasses.fields(run.thresholds)},
        "titles": {code: explanation.title for code, explanation in EXPLANATIONS.items()},
    }


def layer(run: Run, row: int) -> dict[str, Any]:
    """Return every metric that was measured of the layer in `row`."""
    metrics = {name: values[:, row : row + 1] for name, values in run.metrics.items()}
    alone = dataclasses.replace(run, layers=(run.layers[row],), metrics=metrics)
    cells = {name: measured_cells(alone, name)[:, 0] for name in metrics}
    return {
        "layer": _layer(run.layers[row]),
        "steps": run.steps.tolist(),
        "metrics": {name: values.tolist() for name, values in cells.items() if not np.isnan(values).all()},
    }


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


def _metric(metric: Metric) -> dict[str, Any]:
    return {"name": metric.name, "title": metric.title, "unit": metric.unit, "healthy": dict(metric.healthy)}


def _layer(layer: Layer) -> dict[str, str]:
    return {"name": layer.name, "type": layer.type, "kind": layer.kind}


def _severity(judged: Judged) -> str:
    worst = worst_severity(judged.findings)
    if worst is not None:
        return str(worst)
    return "unjudged" if len(judged.run.steps) < judged.run.thresholds.minimum_records else "sound"


def _token(run: Run, metric: Metric, records: int) -> str:
    """Return what stands for the last of the first `records` records, empty without any."""
    if not records:
        return ""
    # Where a run was resumed, records before the last may be new: then the latest time is another one.
    times = run.wall_times[:records]
    told = (metric.name, run.layers, times[-1].item(), times.max().item())
    digest = hashlib.blake2b(repr(told).encode(errors="backslashreplace"), digest_size=8).hexdigest()
    return f"{run.steps[records - 1]}_{digest}"


def _already_sent(run: Run, metric: Metric, after: str | None) -> int:
    """Return how many records an earlier answer held that ended with the token `after`: 0 where it is outdated."""
    if not after:
        return 0
    records = int(np.searchsorted(run.steps, int(after.partition("_")[0]), side="right"))
    return records if after == _token(run, metric, records) else 0
