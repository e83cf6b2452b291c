"""Fits with sharded parameters, each strategy for real: measured as one process measures that holds them whole."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.ranks.sharded import BARE, CASES

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow

Outcome = dict[str, Any]
Fit = Callable[..., list[Outcome]]


TOGETHER = {
    1: ("alone", "alone, clipped", "alone, accumulated"),
    2: (
        *("ddp", "fsdp2", "fsdp2, clipped", "fsdp2, accumulated", "tensor parallel", "sequence parallel"),
        *("fsdp1", "fsdp1, gradients", "fsdp1, nothing", "fsdp1, flat", "fsdp2, nan", "fsdp1, nan"),
        *(f"{case}{BARE}" for case in ("fsdp2", "tensor parallel", "fsdp1")),
    ),
    4: ("hybrid", "both"),
}
"""By the number of ranks, the cases that one set of processes runs through: to start them takes longer than a fit."""


@pytest.fixture(scope="module")
def fit(tmp_path_factory: pytest.TempPathFactory) -> Fit:
    """Return what each rank wrote down of a case on so many ranks, by rank."""

    @cache
    def run(ranks: int) -> Path:
        folder = tmp_path_factory.mktemp("fits")
        command = [sys.executable, "-m", "tests.ranks.sharded", str(ranks), str(folder), *TOGETHER[ranks]]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=400)
        return folder

    def outcomes(case: str, ranks: int = 2) -> list[Outcome]:
        return [json.loads((run(ranks) / case / f"{rank}.json").read_text()) for rank in range(ranks)]

    return outcomes


def arrays(outcome: Outcome, of: str = "metrics") -> dict[str, Any]:
    return {name: np.array(values, dtype=float) for name, values in outcome[of].items()}


def verdict(outcome: Outcome) -> list[tuple[object, ...]]:
    return [(f["code"], f["severity"], f["layers"], f["message"]) for f in outcome["findings"]]


def test_every_case_is_run() -> None:
    assert {case.removesuffix(BARE) for cases in TOGETHER.values() for case in cases} == set(CASES)


def assert_alike(expected: Outcome, found: Outcome, without: tuple[str, ...] = ()) -> None:
    """All metrics and totals, to 1e-5 for what weights and gradients do, and to 1e-6 for what activations do."""
    assert found["layers"] == expected["layers"]
    assert found["types"] == expected["types"]
    assert found["steps"] == expected["steps"]
    columns = [name not in without for name in expected["layers"]]
    metrics = arrays(expected)
    for name, values in arrays(found).items():
        rtol, atol = (1e-6, 1e-6) if name.startswith("act_") or "fraction" in name else (1e-5, 0)
        np.testing.assert_allclose(values[:, columns], metrics[name][:, columns], rtol, atol, err_msg=name)
    assert np.isfinite(metrics["grad_norm"]).any()
    assert np.nanmax(metrics["dead_fraction"]) > 0.5
    assert verdict(found) == verdict(expected) != []


@pytest.mark.parametrize(
    ("case", "ranks", "alone"),
    [
        ("ddp", 2, "alone"),
        ("fsdp2", 2, "alone"),
        ("fsdp2, clipped", 2, "alone, clipped"),
        ("fsdp2, accumulated", 2, "alone, accumulated"),
        ("tensor parallel", 2, "alone"),
        ("fsdp1", 2, "alone"),
        ("fsdp1, gradients", 2, "alone"),
        ("fsdp1, nothing", 2, "alone"),
        ("hybrid", 4, "alone"),
        ("both", 4, "alone"),
    ],
)
def test_sharded_parameters_are_measured_as_whole_ones(case: str, ranks: int, alone: str, fit: Fit) -> None:
    (expected,) = fit(alone, 1)
    outcomes = fit(case, ranks)
    assert_alike(expected, outcomes[0])
    for name, values in arrays(outcomes[0], "totals").items():
        np.testing.assert_allclose(values, arrays(expected, "totals")[name], rtol=1e-5, err_msg=name)
    for outcome in outcomes:
        assert outcome["unseen"] == {}
        assert outcome["outliers"] == []
        assert outcome["findings"] == outcomes[0]["findings"]


def test_clipping_is_seen(fit: Fit) -> None:
    totals = arrays(fit("fsdp2, clipped")[0], "totals")
    np.testing.assert_allclose(totals["total_norm_clipped"], 0.05, rtol=1e-3)
    assert (totals["clip_coefficient"] < 0.9).any()


def test_gradients_of_which_ranks_hold_summands_are_left_out_and_told(fit: Fit) -> None:
    (expected,), (found, _) = fit("alone", 1), fit("sequence parallel")
    assert_alike(expected, found, without=("net.4",))
    assert list(found["unseen"]) == ["net.4"]
    assert found["unseen"]["net.4"].startswith("gradient not measured")
    column = found["layers"].index("net.4")
    for name in ("grad_norm", "no_gradient_fraction"):
        assert np.isnan(arrays(found)[name][:, column]).all()
    assert np.isfinite(arrays(found)["weight_norm"][:, column]).all()


def test_of_parameters_that_were_joined_the_total_norm_is_measured(fit: Fit) -> None:
    (expected,), (found, _) = fit("alone", 1), fit("fsdp1, flat")
    assert found["layers"] == ["net.1", "net.3", "net.6"]
    assert list(found["unseen"]) == ["parameters"]
    np.testing.assert_allclose(arrays(found, "totals")["total_norm"], arrays(expected, "totals")["total_norm"], 1e-5)


@pytest.mark.parametrize("case", ["fsdp2, nan", "fsdp1, nan"])
def test_a_nan_is_found_without_reading_weights_that_are_gone(case: str, fit: Fit) -> None:
    for outcome in fit(case):
        assert outcome["origin"] == {
            "step": 7,
            "module": "",
            "direction": "forward",
            "operation": "mul",
            "rank": 0,
        }


@pytest.mark.parametrize("case", ["fsdp2", "tensor parallel", "fsdp1"])
def test_training_is_the_same_bit_for_bit(case: str, fit: Fit) -> None:
    for watched, unwatched in zip(fit(case), fit(case + BARE), strict=True):
        assert watched["weights"] == unwatched["weights"]
        assert watched["steps"] != unwatched["steps"] == []
