"""A long run is judged by a choice of its records."""

from dataclasses import replace

import numpy as np

from gradscope import Layer, Run, diagnose
from gradscope.rules.thinning import ENDS, LIMIT, thinned
from tests.hand_written_runs import run_of, sound_run


def long_run(records: int, layers: int = 4) -> Run:
    rng = np.random.default_rng(0)
    names = [Layer(f"fc{i}", "Linear", "linear") for i in range(layers)]
    norms = rng.uniform(0.5, 2, (records, layers)).astype(np.float32)
    totals = {"total_norm": np.linalg.norm(norms, axis=1), "loss": np.geomspace(2.3, 0.1, records)}
    return run_of("long", names, {"grad_norm": norms, "nonfinite": np.zeros(layers)}, records=records, globals=totals)


def test_a_short_run_is_judged_as_it_is() -> None:
    run = sound_run()
    assert thinned(run) is run
    assert thinned(long_run(LIMIT)).steps.size == LIMIT


def test_the_ends_and_what_stands_out_are_kept() -> None:
    run = long_run(5000)
    run.globals["total_norm"][3001] = 1e9
    run.globals["nonfinite_loss"] = (np.arange(5000) == 4003).astype(float)  # type: ignore[index]
    flags = np.zeros((5000, 4), dtype=np.float32)
    flags[2007, 1] = 4
    chosen = thinned(replace(run, metrics={**run.metrics, "nonfinite": flags}))
    kept = set((chosen.steps // 10).tolist())
    assert len(kept) <= LIMIT
    assert {*range(ENDS), *range(5000 - ENDS, 5000), 3001, 4003, 2007} <= kept
    assert np.diff(chosen.steps).max() <= 10 * 5000 / (LIMIT - 3 * ENDS) + 10
    assert {values.shape[0] for values in chosen.metrics.values()} == {len(kept)}
    assert {values.shape[0] for values in chosen.globals.values()} == {len(kept)}
    row = int(np.searchsorted(chosen.steps, 30010))
    assert chosen.globals["total_norm"][row] == 1e9


def test_infinite_gradients_do_not_stand_in_for_the_largest() -> None:
    run = long_run(5000)
    run.globals["total_norm"][1001:1041:10] = np.inf
    run.globals["total_norm"][3001] = 1e9
    assert 30010 in thinned(run).steps


def test_many_bad_records_do_not_push_out_the_others() -> None:
    run = long_run(5000)
    run.globals["nonfinite_loss"] = np.ones(5000)  # type: ignore[index]
    assert len(thinned(run).steps) <= LIMIT


def test_a_finding_of_a_long_run_is_that_of_a_short_one() -> None:
    run = long_run(5000)
    sick = replace(
        run,
        metrics={**run.metrics, "grad_norm": run.metrics["grad_norm"] * np.array([1e-7, 1e-5, 1, 1], dtype=np.float32)},
    )
    (finding,) = diagnose(sick)
    assert (finding.code, finding.layers) == ("vanishing_gradient", ("fc0", "fc1"))
    assert (finding.first_step, finding.last_step) == (0, 49990)
