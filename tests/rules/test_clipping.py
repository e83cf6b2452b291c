"""Clipping: when it is a safety net, and when it decides how far a step goes."""

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from gradscope import Layer, Run, Severity, diagnose
from tests.hand_written_runs import run_of

FLAT = np.full(40, 2.3)
LAYERS = [Layer("fc", "Linear", "linear")]


def clipped_run(coefficient: npt.ArrayLike, loss: npt.ArrayLike = FLAT, **more: npt.ArrayLike) -> Run:
    series = {"clip_coefficient": coefficient, "loss": loss, "total_norm": 2.0, **more}
    totals = {k: np.broadcast_to(np.asarray(v, dtype=np.float64), 40).copy() for k, v in series.items()}
    totals["total_norm_clipped"] = totals["total_norm"] * totals["clip_coefficient"]
    return run_of("clipped", LAYERS, {"grad_norm": 1.0}, globals=totals)


def test_every_step_cut_to_a_hundredth() -> None:
    (finding,) = diagnose(clipped_run(0.01))
    assert (finding.code, finding.severity, finding.layers) == ("clipping_dominates", Severity.WARNING, ())
    assert (
        "100% of the recorded steps are clipped, a typical one from a gradient norm of 2 to 0.02, 1.0% of it"
        in finding.message
    )
    assert "Trainer(gradient_clip_val=2)" in finding.hint
    assert "multiply the learning rate by 100" in finding.hint


def share(of: float) -> npt.NDArray[np.float64]:
    return np.where(np.arange(40) < 40 * of, 0.1, 1.0)


@pytest.mark.parametrize(
    ("run", "sick"),
    [
        (clipped_run(0.2), True),
        (clipped_run(0.21), False),
        (clipped_run(share(0.9)), True),
        (clipped_run(share(0.875)), False),
        (clipped_run(0.1, np.geomspace(2.3, 0.3, 40)), False),
        (clipped_run(0.1, np.nan), False),
        (clipped_run(0.1, skipped=1.0), False),
        (clipped_run(np.nan), False),
    ],
    ids=["hard", "less hard", "often", "less often", "learns", "no loss", "skipped", "not measured"],
)
def test_either_side_of_the_marks(run: Run, sick: bool) -> None:
    assert [f.code for f in diagnose(run)] == (["clipping_dominates"] if sick else [])


def test_gradients_that_are_clipped_to_nothing() -> None:
    (finding,) = diagnose(clipped_run(0.0))
    assert "learning rate" not in finding.hint


def test_steps_that_are_as_large_as_usual_are_not_held_against_clipping() -> None:
    run = clipped_run(0.1)
    for ratio, found in ((0.9e-3, ["clipping_dominates"]), (1.1e-3, [])):
        metrics = {**run.metrics, "update_ratio": np.full((40, 1), ratio, dtype=np.float32)}
        assert [f.code for f in diagnose(run_of("adam", LAYERS, metrics, globals=run.globals))] == found


@pytest.mark.parametrize(
    ("ratios", "sick"),
    [
        ((2e-4, 4e-3), True),
        ((3e-4, 4e-3), False),
        ((0.0, 4e-3), False),
        ((0.0, 4e-4), True),
        ((0.0, 0.0), True),
        ((2e-4, math.inf), True),
        ((math.inf, math.inf), True),
    ],
    ids=[
        "between",
        "above",
        "one stands still",
        "beside little",
        "all stand still",
        "one from zero",
        "all from zero",
    ],
)
def test_the_typical_step_of_layers_at_different_paces_is_found_in_powers_of_ten(
    ratios: tuple[float, ...], sick: bool
) -> None:
    run = clipped_run(0.1)
    layers = tuple(Layer(f"fc{i}", "Linear", "linear") for i in range(len(ratios)))
    metrics = {"grad_norm": np.ones((40, len(ratios))), "update_ratio": np.broadcast_to(ratios, (40, len(ratios)))}
    assert ("clipping_dominates" in [f.code for f in diagnose(replace(run, layers=layers, metrics=metrics))]) is sick


def test_layers_without_a_gradient_say_nothing_of_the_size_of_steps() -> None:
    layers = tuple(Layer(f"fc{i}", "Linear", "linear") for i in range(3))
    for frozen, found in ((0.0, []), (1.0, ["clipping_dominates"])):
        metrics = {
            "grad_norm": np.broadcast_to([frozen, frozen, 1.0], (40, 3)),
            "update_ratio": np.broadcast_to([1e-5, 1e-5, 4e-3], (40, 3)),
        }
        assert [f.code for f in diagnose(replace(clipped_run(0.1), layers=layers, metrics=metrics))] == found
