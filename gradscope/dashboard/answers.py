"""What the page is sent: runs as JSON, and a metric of a run as a header with a matrix."""

import dataclasses
import hashlib
import re
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from gradscope.cells import measured_cells
from gradscope.dashboard import content
from gradscope.dashboard.cache import Judged
from gradscope.dashboard.provided_runs import ListedRun, Sample
from gradscope.records import Metric, Run

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
                "metrics": [content.metric(metric) for metric in run.columns()],
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
    header = content.to_json(
        {
            "run": run.name,
            "metric": content.metric(metric),
            "steps": run.steps[first:].tolist(),
            "layers": [content.layer(layer) for layer in run.layers],
            "complete": sample.complete,
            "appended": first > 0,
            "token": _token(run, metric, len(run.steps)),
        }
    )
    header += b" " * (-len(header) % 4)
    return struct.pack("<I", len(header)) + header + cells.astype("<f4", copy=False).tobytes()


def summary(judged: Judged, version: str) -> dict[str, Any]:
    """Return what the rules say of a run, its globals, and what they were judged by."""
    return {"version": version, **content.summary(judged.run, judged.findings)}


def layer(run: Run, row: int) -> dict[str, Any]:
    """Return every metric that was measured of the layer in `row`."""
    metrics = {name: values[:, row : row + 1] for name, values in run.metrics.items()}
    alone = dataclasses.replace(run, layers=(run.layers[row],), metrics=metrics)
    cells = {name: measured_cells(alone, name)[:, 0] for name in metrics}
    return {
        "layer": content.layer(run.layers[row]),
        "steps": run.steps.tolist(),
        "metrics": {name: values.tolist() for name, values in cells.items() if not np.isnan(values).all()},
    }


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
