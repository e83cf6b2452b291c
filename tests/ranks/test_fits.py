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


def fit(case: str, ranks: int, folder: Path, seconds: float = 120) -> list[Outcome]:
    """Run `case`, and return what each rank wrote down, by rank; it may take so many seconds."""
    assert case in CASES
    command = [sys.executable, "-m", "tests.ranks.fit", case, str(ranks), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=seconds)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]


def arrays(outcome: Outcome) -> dict[str, Any]:
    return {name: np.array(values, dtype=float) for name, values in outcome["metrics"].items()}


@pytest.mark.parametrize("case", ["plain", "accumulation", "uneven", "static graph"])
def test_two_ranks_measure_what_one_process_measures(case: str, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (alone,) = fit(case, 1, tmp_path / "one")
    first, second = fit(case, 2, tmp_path)
    assert first["measured"] == {**alone["measured"], "ranks": 2}
    assert first["unseen"] == {}
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


def test_what_runs_on_one_rank_alone_is_measured(tmp_path: Path) -> None:
    first, second = fit("conditional", 2, tmp_path)
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


def test_ranks_with_different_layers_are_told_of(tmp_path: Path) -> None:
    for outcome in fit("other activation", 2, tmp_path):
        assert outcome["unseen"]["net.relu"] == (
            "not measured: it is another thing on each rank: ReLU on rank 0, GELU on rank 1"
        )
        column = outcome["layers"].index("net.relu")
        assert np.isnan(arrays(outcome)["act_mean"][:, column]).all()
        assert np.isfinite(arrays(outcome)["act_mean"][:, outcome["layers"].index("net.tanh")]).all()


def test_a_rank_with_other_data_is_named(tmp_path: Path) -> None:
    for outcome in fit("outlier", 2, tmp_path):
        (finding,) = (finding for finding in outcome["findings"] if finding["code"] == "rank_outlier")
        assert "rank 1" in finding["message"]
        assert "net.relu" in finding["layers"]


def test_sound_ranks_are_not_told_apart(tmp_path: Path) -> None:
    assert all(outcome["outliers"] == [] for outcome in fit("plain", 2, tmp_path))


def test_a_nan_is_traced_to_its_rank(tmp_path: Path) -> None:
    for outcome in fit("nan", 2, tmp_path):
        assert outcome["origin"] == {"step": 13, "module": "", "direction": "batch", "operation": "", "rank": 1}
        assert "in the batch itself on rank 1" in outcome["findings"][0]["message"]


@pytest.mark.parametrize(
    ("case", "slot", "why"),
    [
        ("probe fails", "LivenessProbe at net.relu", "RuntimeError: broken on purpose"),
        ("sharing fails", "LivenessProbe", "RuntimeError: broken on purpose"),
        ("recorder fails", "other ranks", "GradScope on rank 1 switched itself off: on_train_batch_start failed"),
        ("recorder fails at once", "other ranks", "GradScope on rank 1 switched itself off: on_train_batch_start"),
        ("never attached", "other ranks", "GradScope on rank 1 switched itself off: on_fit_start failed"),
        ("on one rank alone", "other ranks", "could not be reached after DistStoreError"),
    ],
)
def test_a_rank_that_fails_is_waited_for_by_nobody(case: str, slot: str, why: str, tmp_path: Path) -> None:
    first, second = fit(case, 2, tmp_path)
    assert why in first["unseen"][slot]
    assert first["weights"] == second["weights"]
    assert first["calls_of_forward_hooks"] == second["calls_of_forward_hooks"] == 0
    assert np.isfinite(arrays(first)["grad_norm"][-1, 0]), "gradients are measured to the end"


def test_training_is_bitwise_the_same(tmp_path: Path) -> None:
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
    fits = [fit("plain", 2, tmp_path / "with"), fit("without", 2, tmp_path / "without")]
    assert fits[0][0]["steps"] != []
    assert fits[1][0]["steps"] == []
    assert fits[0][0]["weights"] == fits[1][0]["weights"] == fits[0][1]["weights"]


@pytest.mark.parametrize("case", ["killed", "killed without", "raises", "raises without"])
def test_a_fit_that_loses_a_rank_ends_as_without(case: str, tmp_path: Path) -> None:
    start = time.perf_counter()
    with pytest.raises(subprocess.CalledProcessError) as caught:
        fit(case, 2, tmp_path, seconds=100)
    assert caught.value.returncode not in (0, None)
    assert time.perf_counter() - start < 90
