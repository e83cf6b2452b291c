"""Fits on two processes, each case for real: merged as one process would have measured, and nobody waits for ever."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.ranks.fit import CASES

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow

Outcome = dict[str, Any]


SHARED = ("plain", "accumulation", "uneven", "static graph", "compiled", "by hand", "past Lightning")
"""Cases in which all ranks together do what one process does."""

TOGETHER = (
    *SHARED,
    *("without", "conditional", "other activation", "outlier", "nan"),
    *("probe fails", "sharing fails", "recorder fails", "recorder fails at once", "recorder fails past Lightning"),
    *("never attached", "beginning fails"),
    "on one rank alone",  # after it ranks number their groups differently
)
"""Cases that one pair of processes runs through: to start them takes longer than all else."""


def run(ranks: int, folder: Path, *cases: str, seconds: float = 300) -> None:
    """Run `cases`; they may take so many seconds."""
    assert set(cases) <= set(CASES)
    command = [sys.executable, "-m", "tests.ranks.fit", str(ranks), str(folder), *cases]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=seconds)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two ranks wrote down what came of each case."""
    folder = tmp_path_factory.mktemp("two")
    run(2, folder, *TOGETHER)
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where one process did."""
    folder = tmp_path_factory.mktemp("one")
    run(1, folder, *SHARED)
    return folder


def outcomes(folder: Path, case: str) -> list[Outcome]:
    """Return what each rank wrote down, by rank."""
    files = sorted((folder / case).glob("*.json"))
    assert files != []
    return [json.loads(file.read_text()) for file in files]


def arrays(outcome: Outcome) -> dict[str, Any]:
    return {name: np.array(values, dtype=float) for name, values in outcome["metrics"].items()}


@pytest.mark.parametrize("case", SHARED)
def test_two_ranks_measure_what_one_process_measures(case: str, one: Path, two: Path) -> None:
    (alone,) = outcomes(one, case)
    first, second = outcomes(two, case)
    assert first["measured"] == {**alone["measured"], "ranks": 2}
    assert first["unseen"] == alone["unseen"]
    assert ("activations called as functions" in first["unseen"]) == (case == "compiled")
    assert first["steps"] == alone["steps"]
    assert first["layers"] == alone["layers"]
    expected, merged = arrays(alone), arrays(first)
    compared = 0
    if case != "uneven":  # DDP weighs ranks alike, also where the last batch is not shared out evenly
        for name in ("grad_norm", "weight_norm", "update_ratio"):
            np.testing.assert_allclose(merged[name], expected[name], rtol=1e-5, err_msg=name)
        assert first["loss"] == pytest.approx(alone["loss"], rel=1e-6)
    for name in ("act_mean", "act_var", "zero_fraction", "saturated_fraction", "dead_fraction", "revived_fraction"):
        np.testing.assert_allclose(merged[name], expected[name], rtol=1e-6, atol=1e-6, err_msg=name)
        compared += int(np.isfinite(expected[name]).any())
    assert compared == 6
    assert [f["code"] for f in first["findings"]] == [f["code"] for f in alone["findings"]] != []
    assert [f["layers"] for f in first["findings"]] == [f["layers"] for f in alone["findings"]]
    assert first["findings"] == second["findings"], "each rank knows the same"
    assert first["metrics"].keys() == second["metrics"].keys()
    for name, values in arrays(second).items():
        np.testing.assert_array_equal(values, merged[name], err_msg=name)


def test_what_runs_on_one_rank_alone_is_measured(two: Path) -> None:
    first, second = outcomes(two, "conditional")
    layers, metrics = first["layers"], arrays(first)
    assert "net.relu()" in layers
    column = metrics["act_mean"][:, layers.index("net.relu()")]
    assert np.isnan(column[:2]).all(), "it had not run yet"
    assert np.isfinite(column[3:]).all(), "of the first time the other rank was told"
    assert np.isfinite(metrics["dead_fraction"][3:, layers.index("net.relu()")]).all()
    of_second = arrays(second)["act_mean"][:, second["layers"].index("net.relu()")]
    np.testing.assert_array_equal(column, of_second)
    assert first["unseen"] == second["unseen"] == {}
    assert not any(finding["code"] == "no_gradient" for finding in first["findings"])


def test_ranks_with_different_layers_are_told_of(two: Path) -> None:
    for outcome in outcomes(two, "other activation"):
        assert outcome["unseen"]["net.relu"] == (
            "not measured: it is another thing on each rank: ReLU on rank 0, GELU on rank 1"
        )
        column = outcome["layers"].index("net.relu")
        assert np.isnan(arrays(outcome)["act_mean"][:, column]).all()
        assert np.isfinite(arrays(outcome)["act_mean"][:, outcome["layers"].index("net.tanh")]).all()


def test_a_rank_with_other_data_is_named(two: Path) -> None:
    for outcome in outcomes(two, "outlier"):
        (finding,) = (finding for finding in outcome["findings"] if finding["code"] == "rank_outlier")
        assert "rank 1" in finding["message"]
        assert "net.relu" in finding["layers"]


def test_sound_ranks_are_not_told_apart(two: Path) -> None:
    assert all(outcome["outliers"] == [] for outcome in outcomes(two, "plain"))


def test_a_nan_is_traced_to_its_rank(two: Path) -> None:
    for outcome in outcomes(two, "nan"):
        assert outcome["origin"] == {"step": 13, "module": "", "direction": "batch", "operation": "", "rank": 1}
        assert "in the batch itself on rank 1" in outcome["findings"][0]["message"]


@pytest.mark.parametrize(
    ("case", "slot", "why"),
    [
        ("probe fails", "LivenessProbe at net.selu", "RuntimeError: broken on purpose"),
        ("sharing fails", "LivenessProbe", "RuntimeError: broken on purpose"),
        ("recorder fails", "other ranks", "GradScope on rank 1 switched itself off: on_train_batch_start failed"),
        ("recorder fails at once", "other ranks", "GradScope on rank 1 switched itself off: on_train_batch_start"),
        (
            "recorder fails past Lightning",
            "other ranks",
            "GradScope on rank 1 switched itself off: on_train_batch_start failed",
        ),
        ("never attached", "other ranks", "GradScope on rank 1 switched itself off: on_fit_start failed"),
        ("beginning fails", "other ranks", "GradScope on rank 1 switched itself off: _begin failed"),
        ("on one rank alone", "other ranks", "could not be reached after DistStoreError"),
    ],
)
def test_a_rank_that_fails_is_waited_for_by_nobody(case: str, slot: str, why: str, two: Path) -> None:
    first, second = outcomes(two, case)
    assert why in first["unseen"][slot]
    assert first["weights"] == second["weights"]
    assert first["calls_of_forward_hooks"] == second["calls_of_forward_hooks"] == 0
    assert np.isfinite(arrays(first)["grad_norm"][-1, 0]), "gradients are measured to the end"


def test_training_is_bitwise_the_same(two: Path) -> None:
    watched, bare = outcomes(two, "plain"), outcomes(two, "without")
    assert watched[0]["steps"] != []
    assert bare[0]["steps"] == []
    assert watched[0]["weights"] == bare[0]["weights"] == watched[1]["weights"]


@pytest.mark.parametrize("case", ["killed", "killed without", "raises", "raises without"])
def test_a_fit_that_loses_a_rank_ends_as_without(case: str, tmp_path: Path) -> None:
    start = time.perf_counter()
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run(2, tmp_path, case, seconds=150)
    assert caught.value.returncode != 0
    assert time.perf_counter() - start < 140
