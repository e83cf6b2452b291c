"""Records that no sound run has: nothing is raised, and nothing is made up."""

import math
from dataclasses import replace

import numpy as np
import pytest

from gradscope import Layer, Record, Run, Thresholds, diagnose
from gradscope.records import GLOBALS, Setup
from tests.hand_written_runs import COLUMNS, run_of
from tests.rules.sick_runs import sick_runs

KINDS = (
    ("Linear", "linear"), ("ReLU", "rectifier"), ("Conv2d", "convolution"), ("SELU", "self_normalizing"),
    ("LSTM", "recurrent"), ("Tanh", "saturating"), ("Embedding", "embedding"), ("LayerNorm", "normalization"),
)  # fmt: skip
STRANGE = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-45, 3e38, -1.0, 1.0]


@pytest.mark.parametrize("seed", range(60))
def test_a_run_of_strange_numbers_raises_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    records, layers = int(rng.integers(0, 40)), int(rng.integers(0, 12))
    rows = [Layer(f"l{i}", *KINDS[rng.integers(len(KINDS))]) for i in range(layers)]
    names = [*(column.name for column in COLUMNS), "no_gradient_fraction"]

    def strange(*shape: int) -> np.ndarray:
        usual = rng.lognormal(sigma=4, size=shape)
        return np.where(rng.random(shape) < rng.random(), rng.choice(STRANGE, shape), usual)

    metrics = {name: strange(records, layers) for name in names if rng.random() < 0.8}
    totals = {name: strange(records) for name in GLOBALS if rng.random() < 0.8}
    for finding in diagnose(run_of("strange", rows, metrics, records=records, globals=totals)):
        assert finding.message
        assert finding.hint
        assert set(finding.layers) <= {row.name for row in rows}
        assert "nan" not in finding.hint.lower().split()


@pytest.mark.parametrize("records", [0, 1, 2])
@pytest.mark.parametrize("what", sick_runs())
def test_one_record_or_two_raise_no_false_alarm(what: str, records: int) -> None:
    run = sick_runs()[what]
    few = replace(
        run,
        steps=run.steps[:records],
        wall_times=run.wall_times[:records],
        metrics={name: values[:records] for name, values in run.metrics.items()},
        globals={name: values[:records] for name, values in run.globals.items()},
        origin=None,
    )
    allowed = {
        "SELUs outside from the start": {"selu_drift"},
        "SELUs that are set up like ReLUs": {"selu_misconfigured"},
        "a gradient that grows over depth": {"exploding_gradient"},
    }
    # What the first record alone tells: the initialisation.
    assert {finding.code for finding in diagnose(few)} <= allowed.get(what, set())


def test_columns_of_nothing_but_nan() -> None:
    for what, run in sick_runs().items():
        nothing = {name: np.full_like(values, np.nan) for name, values in run.metrics.items()}
        quiet = replace(run, metrics=nothing, globals={}, origin=None, setup=Setup())
        assert diagnose(quiet) == (), what


def test_a_layer_that_appears_late_is_judged_by_its_own_records() -> None:
    run = sick_runs()["dead ReLUs"]
    dead = run.metric("dead_fraction").copy()
    dead[:35] = math.nan
    assert diagnose(replace(run, metrics={**run.metrics, "dead_fraction": dead})) == (), "five records are no window"
    dead[:] = run.metric("dead_fraction")
    dead[:25] = math.nan
    (finding,) = diagnose(replace(run, metrics={**run.metrics, "dead_fraction": dead}))
    assert finding.first_step == 250


def test_steps_out_of_order_and_repeated_after_a_resume() -> None:
    layers = tuple(Layer(f"fc{i}", "Linear", "linear") for i in range(4))
    norms = np.array([1e-7, 1e-5, 0.1, 1.0], dtype=np.float32)
    steps = [*range(0, 200, 10), *range(150, 300, 10), 5]
    records = [Record(step, float(i), layers, {"grad_norm": norms}, {"loss": 2.3}) for i, step in enumerate(steps)]
    run = Run.from_records("resumed", records, COLUMNS)
    assert np.all(np.diff(run.steps) > 0)
    (finding,) = diagnose(run)
    assert (finding.code, finding.first_step, finding.last_step) == ("vanishing_gradient", 0, 290)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"update_ratio_low": 0.1}, "`update_ratio_low` must be below `update_ratio_high`, got 0.1 and 0.1"),
        ({"update_ratio_high": 0.0}, "`update_ratio_high` must be a number above 0, got 0.0"),
        ({"uneven_ratio": 0.5}, "`uneven_ratio` must be a number of at least 1, got 0.5"),
        ({"clip_coefficient": 1.5}, r"`clip_coefficient` must be a number in \(0, 1\], got 1.5"),
        ({"clipped_share": 0}, r"`clipped_share` must be a number in \(0, 1\], got 0"),
        ({"selu_tau": (1.1, 0.9)}, r"`selu_tau` must be a pair \(low, high\) with low < high"),
    ],
)
def test_thresholds_that_contradict_each_other_are_refused(options: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Thresholds(**options)  # type: ignore[arg-type]
