"""Runs written by hand, as a reader of logs would return them: for whatever shows a run."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from gradscope.records import Coverage, Finding, Layer, Metric, Overhead, Run, Severity

COLUMNS = (
    Metric("grad_norm", "gradient norm", "L2 norm"),
    Metric("grad_norm_clipped", "gradient norm after clipping", "L2 norm"),
    Metric("weight_norm", "weight norm", "L2 norm"),
    Metric("update_ratio", "update ratio", "ratio", {"linear": (1e-4, 1e-1)}),
    Metric("act_mean", "mean", "value", {"self_normalizing": (-0.1, 0.1)}),
    Metric("act_var", "variance", "value", {"self_normalizing": (0.8, 1.5)}),
    Metric("zero_fraction", "zeros", "fraction"),
    Metric("dead_fraction", "dead units", "fraction", {"rectifier": (0.0, 0.4)}),
    Metric("saturated_fraction", "saturated", "fraction", {"saturating": (0.0, 0.5)}),
    Metric("nonfinite", "non-finite values", "flags"),
)


def run_of(
    name: str,
    layers: Sequence[Layer],
    metrics: Mapping[str, npt.ArrayLike],
    columns: Sequence[Metric] = COLUMNS,
    records: int = 40,
    **rest: object,
) -> Run:
    """Return a run with a record every 10 steps; each of `metrics` is broadcast to [records, len(layers)]."""
    shape = (records, len(layers))
    return Run(
        name=name,
        steps=np.arange(records, dtype=np.int64) * 10,
        wall_times=np.arange(records, dtype=np.float64),
        layers=tuple(layers),
        metrics={k: np.broadcast_to(np.asarray(v, dtype=np.float32), shape) for k, v in metrics.items()},
        columns=tuple(columns),
        **{"globals": {}, **rest},  # type: ignore[arg-type]
    )


def empty_run(name: str = "empty") -> Run:
    """Return a run without records or layers."""
    return run_of(name, (), {}, records=0)


def sound_run(records: int = 40) -> Run:
    """Return a small SELU net that learns: nothing to be said about it."""
    layers = (
        Layer("features.0", "Conv2d", "convolution"),
        Layer("features.1", "SELU", "self_normalizing"),
        Layer("features.2", "Conv2d", "convolution"),
        Layer("features.3", "SELU", "self_normalizing"),
        Layer("classifier", "Linear", "linear"),
    )
    t = np.arange(records)[:, None]
    none = math.nan
    decay = np.exp(-t / 25) * (1 + 0.1 * np.sin(3 * t))
    return run_of(
        "version_1",
        layers,
        {
            "grad_norm": decay * [0.31, none, 0.42, none, 0.88],
            "grad_norm_clipped": decay * [0.31, none, 0.42, none, 0.88],
            "weight_norm": (1 + 0.002 * t) * [3.2, none, 7.5, none, 2.2],
            "update_ratio": [2.1e-3, none, 1.8e-3, none, 3.3e-3],
            "act_mean": [none, 0.031, none, -0.002, none],
            "act_var": [none, 1.04, none, 0.96, none],
            "nonfinite": np.zeros(5),
        },
        records=records,
        globals={"loss": 2.31 * np.exp(-t[:, 0] / 12) + 0.08, "total_norm": 1.1 * decay[:, 0]},
        overhead=Overhead(records, 0.98, 123.4),
    )


def sick_run() -> Run:
    """Return a deep net whose gradient vanishes and whose rectifiers die, clipped, with a NaN on the way."""
    layers: list[Layer] = []
    for i in range(5):
        layers += [Layer(f"encoder.blocks.{i}.conv", "Conv2d", "convolution")]
        layers += [Layer(f"encoder.blocks.{i}.relu", "ReLU", "rectifier")]
    layers += [Layer("encoder.squash", "Sigmoid", "saturating"), Layer("head.linear", "Linear", "linear")]
    records, rows = 57, len(layers)
    t = np.linspace(0, 1, records)[:, None]
    weights = np.array([layer.kind in ("convolution", "linear") for layer in layers])
    rectifiers = np.array([layer.kind == "rectifier" for layer in layers])
    depth = np.linspace(6, 0, rows)
    grad_norm = np.where(weights, 10.0 ** (-depth * (0.3 + 0.7 * t)), math.nan)
    grad_norm[:3, 8] = math.nan
    grad_norm[30, 11] = math.inf
    nonfinite = np.zeros((records, rows))
    nonfinite[30, 11] = 5
    return run_of(
        "version_0",
        layers,
        {
            "grad_norm": grad_norm,
            "grad_norm_clipped": grad_norm * 0.5,
            "weight_norm": np.where(weights, 4.2, math.nan),
            "update_ratio": np.where(weights, 10.0 ** (-2 - depth / 2), math.nan),
            "act_mean": np.where(weights, math.nan, 0.4),
            "act_var": np.where(weights, math.nan, 0.0021),
            "zero_fraction": np.where(rectifiers, 0.5 + 0.04 * depth + 0.2 * t, math.nan),
            "dead_fraction": np.where(rectifiers, 0.13 * depth * t, math.nan),
            "saturated_fraction": np.where(np.arange(rows) == 10, 0.93 * t, math.nan),
            "nonfinite": nonfinite,
        },
        records=records,
        globals={
            "loss": 2.3 + 0.02 * np.cos(9 * t[:, 0]),
            "total_norm": 2 + t[:, 0],
            "clip_coefficient": 1 / (2 + t[:, 0]),
            "skipped": (np.arange(records) == 30).astype(float),
        },
        coverage=Coverage({"decoder.proj": "it never ran", "decoder.out": "it never ran", "torch.relu": "a function"}),
        overhead=Overhead(records, 0.98, 123.4),
        notes=("`events.out.tfevents.1` ends in the middle of a record: what follows it is lost.",),
    )


def sick_findings() -> tuple[Finding, ...]:
    """Return what is wrong with `sick_run`, the worst last."""
    return (
        Finding(
            code="clipping_dominates",
            severity=Severity.INFO,
            layers=(),
            first_step=0,
            last_step=560,
            message="Every step was clipped, to 0.4 of its length in the median.",
            hint="Raise gradient_clip_val above 3, or lower the learning rate and do without clipping.",
        ),
        Finding(
            code="dead_relu",
            severity=Severity.WARNING,
            layers=("encoder.blocks.0.relu", "encoder.blocks.1.relu"),
            first_step=310,
            last_step=560,
            message="71 % of the units of `encoder.blocks.0.relu` fired for no sample in the last 10 records.",
            hint="Lower the learning rate, or replace ReLU with LeakyReLU.",
            evidence={"dead_fraction": 0.71},
        ),
        Finding(
            code="vanishing_gradient",
            severity=Severity.CRITICAL,
            layers=(*(f"encoder.blocks.{i}.conv" for i in range(5)), "encoder.blocks.0.relu", "encoder.squash"),
            first_step=100,
            last_step=560,
            message=(
                "The gradient norm falls from 1.00e+00 at `head.linear` to 1.00e-06 at `encoder.blocks.0.conv`: the "
                "layers nearest the input learn a million times more slowly than those nearest the loss."
            ),
            hint="Replace the Sigmoid `encoder.squash`, add normalization or residual connections.",
            evidence={"ratio": 1e-6, "worst": math.nan},
        ),
    )
