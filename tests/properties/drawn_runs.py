"""Runs as a search draws them: sick and sound layers together, with gaps and numbers that are none."""

import math
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt

from gradscope.records import GLOBALS, Layer, Run
from gradscope.selection import with_records
from tests.hand_written_runs import run_of
from tests.rules.sick_runs import sick_runs

KINDS = (
    ("Linear", "linear"), ("ReLU", "rectifier"), ("Conv2d", "convolution"), ("SELU", "self_normalizing"),
    ("LSTM", "recurrent"), ("Tanh", "saturating"), ("Embedding", "embedding"), ("LayerNorm", "normalization"),
)  # fmt: skip
OF_WEIGHTS = ("grad_norm", "grad_norm_clipped", "weight_norm", "update_ratio", "no_gradient_fraction")
OF_OUTPUTS = ("act_mean", "act_var", "zero_fraction", "dead_fraction", "saturated_fraction")
SICK = sick_runs()
LEVELS = {
    "grad_norm": (1e-8, 1e-4, 1e-2, 1.0, 1e5),
    "weight_norm": (0.1, 5.0),
    "update_ratio": (1e-9, 1e-7, 1e-3, 0.2, 0.7),
    "no_gradient_fraction": (0.0, 0.5, 1.0),
    "act_mean": (-0.5, 0.0, 0.3),
    "act_var": (0.01, 1.0, 4.0),
    "saturated_fraction": (0.0, 0.4, 0.8),
    "dead_fraction": (0.0, 0.3, 0.5, 0.95),
    "zero_fraction": (0.1, 0.6),
}
"""What a layer measures typically, sound and sick."""


@st.composite
def runs(draw: st.DrawFn, longest: int = 60) -> Run:
    """A run written by hand, or one of layers and records drawn at random; often spoiled here and there."""
    run = SICK[draw(st.sampled_from(sorted(SICK)))] if draw(st.booleans()) else draw(_random_runs(longest))
    if draw(st.booleans()):
        run = replace(run, metrics={n: v if n == "nonfinite" else draw(_spoiled(v)) for n, v in run.metrics.items()})
    return run


@st.composite
def _random_runs(draw: st.DrawFn, longest: int) -> Run:
    records = draw(st.integers(0, longest))
    kinds = draw(st.lists(st.sampled_from(KINDS), max_size=9))
    layers = [Layer(f"layer{i}", *kind) for i, kind in enumerate(kinds)]
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    metrics: dict[str, npt.NDArray[Any]] = {name: _column(rng, name, layers, records) for name in LEVELS}
    metrics["grad_norm_clipped"] = metrics["grad_norm"] * draw(st.sampled_from([1.0, 0.01]))
    metrics["nonfinite"] = (rng.random((records, len(layers))) < draw(st.sampled_from([0, 0.02]))) * 1.0
    total = np.sqrt(np.nansum(metrics["grad_norm"] ** 2, axis=1))
    spikes = rng.random(records) < draw(st.sampled_from([0.0, 0.1]))
    totals = {
        "loss": 2.3 * np.linspace(1, draw(st.sampled_from([0.01, 0.9, 40])), records),
        "total_norm": total * np.where(spikes, 1e5, 1),
        "total_norm_clipped": total * 0.1,
        "clip_coefficient": np.full(records, draw(st.sampled_from([1.0, 0.1]))),
        "skipped": (rng.random(records) < draw(st.sampled_from([0, 0.1]))) * 1.0,
    }
    return run_of("drawn", layers, metrics, records=records, globals={n: v for n, v in totals.items() if n in GLOBALS})


def _column(rng: np.random.Generator, name: str, layers: list[Layer], records: int) -> npt.NDArray[np.float64]:
    typical = rng.choice(LEVELS[name], len(layers))
    activations = np.array([layer.kind in ("rectifier", "self_normalizing", "saturating") for layer in layers])
    typical[activations == (name in OF_WEIGHTS)] = math.nan
    # Factors of two: whatever is scaled by such stays exact.
    return np.asarray(typical * 2.0 ** rng.integers(-1, 1, (records, len(layers))), dtype=np.float64)


@st.composite
def _spoiled(draw: st.DrawFn, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    spoiled = values.copy()
    for _ in range(draw(st.integers(0, 3)) if spoiled.size else 0):
        s, row = draw(st.integers(0, len(spoiled) - 1)), draw(st.integers(0, spoiled.shape[1] - 1))
        spoiled[s:, row] = draw(st.sampled_from([math.nan, math.inf, 0.0, 3e38]))
    return np.asarray(spoiled, dtype=np.float32)


def rearranged(run: Run, order: list[int]) -> Run:
    """The same layers in another order."""
    layers = tuple(run.layers[i] for i in order)
    return replace(run, layers=layers, metrics={name: values[:, order] for name, values in run.metrics.items()})


def with_layers(run: Run, at: int, layers: list[Layer], cells: dict[str, float]) -> Run:
    """`run` with `layers` more before row `at`, of which `cells` were measured in every record."""
    names = {*run.metrics, *cells}
    added = {n: np.full((len(run.steps), len(layers)), cells.get(n, math.nan), dtype=np.float32) for n in names}
    metrics = {n: np.concatenate((run.metric(n)[:, :at], added[n], run.metric(n)[:, at:]), axis=1) for n in names}
    return replace(run, layers=(*run.layers[:at], *layers, *run.layers[at:]), metrics=metrics)


def beginning(run: Run, records: int) -> Run:
    """The first `records` of `run`."""
    return with_records(run, np.arange(min(records, len(run.steps))))
