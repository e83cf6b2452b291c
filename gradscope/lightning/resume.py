"""What a fit knows, as plain data that a checkpoint can hold, both ways.

Plain means Python's own numbers, strings, lists and dicts, and torch tensors: a checkpoint loads where GradScope is not
installed, and with ``torch.load(weights_only=True)``. Of the record 300 steps are kept at most, those that the rules
would judge, so that the findings are the same: at 13 metrics no more than 16 kB a layer. To this come 4 bytes for each
unit of a rectifier.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradscope.events.status import fields_of, flight_as_json, flight_of, status_of
from gradscope.lightning.cadence import Cadence
from gradscope.records import GLOBALS, Flight, Floats, Layer, Metric, Record, Run, Setup, Severity
from gradscope.rules.thinning import thinned

FORMAT = 1
"""Of what `state_of` returns. It grows when a reader of the format before could not make sense of it."""

Silence = Mapping[str, Mapping[str, Tensor]]
"""By probe and layer, for how many batches each unit has been silent: float32[units]."""

_PARTS = ("record", "status", "cadence", "findings", "units", "window", "logs")


class UnreadableStateError(ValueError):
    """A state that this version cannot make sense of, and why."""


@dataclass(frozen=True, eq=False)
class Memory:
    """What a fit knows when a checkpoint is saved."""

    run: Run
    """Its records, or a choice of them, and what it knows beside them."""
    cadence: Mapping[str, Any] = field(default_factory=dict)
    """`Cadence.state`."""
    findings: Mapping[str, Severity] = field(default_factory=dict)
    """By code, the severity of each finding that something was done about."""
    silence: Silence = field(default_factory=dict)
    window: Flight | None = None
    """The last steps, every one."""
    logs: tuple[str, ...] = ()
    """Where the records were written to."""
    missing: tuple[str, ...] = ()
    """Which parts the state did not have."""


def state_of(memory: Memory) -> dict[str, Any]:
    """Return `memory` as plain data."""
    return {
        "format": FORMAT,
        "record": _record_state(thinned(memory.run)),
        # JSON makes lists of tuples, and refuses what is not plain.
        "status": json.loads(json.dumps(status_of(memory.run))),
        "cadence": dict(memory.cadence),
        "findings": {code: int(severity) for code, severity in memory.findings.items()},
        "units": {probe: dict(by_layer) for probe, by_layer in memory.silence.items()},
        "window": None if memory.window is None else flight_as_json(memory.window),
        "logs": list(memory.logs),
    }


def memory_of(state: Mapping[str, Any]) -> Memory:
    """Return what `state_of` has made a state of; parts that an older version did not write are empty, and `missing`.

    Raises:
        UnreadableStateError: it comes from a newer version, or is damaged.
    """
    version = state.get("format") if isinstance(state, Mapping) else None
    if type(version) is not int:
        raise UnreadableStateError(f"it is damaged: its `format` must be an integer, got {version!r}")
    if version > FORMAT:
        raise UnreadableStateError(
            f"it was saved by a newer GradScope (format {version}, this one reads up to {FORMAT}): update "
            "lightning-gradscope to go on with it"
        )
    try:
        return _memory(state)
    except Exception as error:  # of whatever type: what it is made of is not known
        raise UnreadableStateError(f"it is damaged ({type(error).__name__}: {error})") from error


def _memory(state: Mapping[str, Any]) -> Memory:
    run = _run(state.get("record", {}))
    if "status" in state:
        run = replace(run, **fields_of(state["status"]))
    cadence, window = dict(state.get("cadence", {})), state.get("window")
    Cadence(budget=1.0).restore(cadence)  # which raises where it could not later
    return Memory(
        run=run,
        cadence=cadence,
        findings={_text(code): Severity(severity) for code, severity in state.get("findings", {}).items()},
        silence={
            _text(probe): {_text(layer): _units(units) for layer, units in by_layer.items()}
            for probe, by_layer in state.get("units", {}).items()
        },
        window=None if window is None else flight_of(window),
        logs=tuple(map(_text, state.get("logs", ()))),
        missing=tuple(part for part in _PARTS if part not in state),
    )


def restricted(run: Run, has: Callable[[Layer], bool], columns: Sequence[Metric]) -> Run:
    """Return `run` with the layers that a model `has`, and with `columns` as its metrics.

    Where some layer is not among them nothing is said any more about the weights that the fit began with.
    """
    kept = np.array([i for i, layer in enumerate(run.layers) if has(layer)], dtype=np.int64)
    known = {column.name for column in columns}
    return replace(
        run,
        layers=tuple(run.layers[i] for i in kept),
        metrics={name: values[:, kept] for name, values in run.metrics.items() if name in known},
        columns=tuple(columns),
        setup=run.setup if len(kept) == len(run.layers) else Setup(),
    )


def records_of(run: Run) -> list[Record]:
    """Take `run` apart into its records."""
    return [
        Record(
            int(step),
            float(run.wall_times[s]),
            run.layers,
            {name: values[s] for name, values in run.metrics.items()},
            {name: float(values[s]) for name, values in run.globals.items() if not math.isnan(values[s])},
        )
        for s, step in enumerate(run.steps)
    ]


def _record_state(run: Run) -> dict[str, Any]:
    return {
        "layers": [[layer.name, layer.type, layer.kind] for layer in run.layers],
        "steps": run.steps.tolist(),
        "wall_times": run.wall_times.tolist(),
        "globals": {name: values.tolist() for name, values in run.globals.items() if not np.isnan(values).all()},
        "metrics": {name: _matrix_state(values) for name, values in run.metrics.items()},
    }


def _matrix_state(values: Floats) -> dict[str, Any]:
    """The columns of layers that have such a metric: most metrics belong to half of the layers."""
    layers = np.flatnonzero(~np.isnan(values).all(axis=0))
    return {"layers": layers.tolist(), "values": torch.from_numpy(values[:, layers].copy())}


def _run(state: Mapping[str, Any]) -> Run:
    layers = tuple(Layer(*map(_text, cells)) for cells in state.get("layers", ()))
    steps = np.array([_count(step) for step in state.get("steps", ())], dtype=np.int64)
    if (np.diff(steps) <= 0).any() or len({layer.name for layer in layers}) < len(layers):
        raise ValueError("steps must increase, and the names of layers differ")
    shape = len(steps), len(layers)
    metrics = {_text(name): _matrix(matrix, shape) for name, matrix in state.get("metrics", {}).items()}
    totals = {name: _series(values, len(steps)) for name, values in state.get("globals", {}).items() if name in GLOBALS}
    return Run(
        name="",
        steps=steps,
        wall_times=_series(state.get("wall_times", ()), len(steps)),
        layers=layers,
        metrics=metrics,
        columns=tuple(Metric(name, name, "value") for name in metrics),
        globals=totals,
    )


def _matrix(state: Mapping[str, Any], shape: tuple[int, int]) -> Floats:
    values = np.full(shape, np.nan, dtype=np.float32)
    layers = [_count(layer) for layer in state["layers"]]
    columns = _tensor(state["values"]).numpy()
    if columns.shape != (shape[0], len(layers)):
        raise ValueError(f"a metric must be of shape {(shape[0], len(layers))}, got {columns.shape}")
    values[:, layers] = columns
    return values


def _series(values: Sequence[float], records: int) -> npt.NDArray[np.float64]:
    series = np.array([float(value) for value in values], dtype=np.float64)
    if len(series) != records:
        raise ValueError(f"there must be a number for each of {records} records, got {len(series)}")
    return series


def _units(units: object) -> Tensor:
    tensor = _tensor(units)
    if tensor.dim() != 1 or not bool((tensor >= 0).all()):
        raise ValueError("the batches since units last fired must be in one dimension, and none below zero")
    return tensor


def _tensor(value: object) -> Tensor:
    if not isinstance(value, Tensor) or value.dtype is not torch.float32:
        raise TypeError(f"expected a float32 tensor, got {getattr(value, 'dtype', type(value).__name__)}")
    return value.detach().cpu()


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a string, got {value!r}")
    return value


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise TypeError(f"expected a whole number, got {value!r}")
    return value
