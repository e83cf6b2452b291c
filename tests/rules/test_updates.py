"""Steps that are too large, too small, or of another size from layer to layer: each rule on either side of its mark."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gradscope import Finding, Layer, Run, Severity, Thresholds, diagnose
from tests.hand_written_runs import run_of

FLAT = np.full(40, 2.3)
FALLING = np.geomspace(2.3, 0.2, 40)
WORSE = np.concatenate([[2.3, 40, 90, 60], np.full(36, 2.5)])


def run_with(update_ratio: npt.ArrayLike, loss: npt.ArrayLike | None = None, **options: Any) -> Run:
    """A run of three linear layers; `update_ratio` is broadcast to [records, 3]."""
    layers = [Layer(f"fc{i}", "Linear", "linear") for i in range(3)]
    metrics = {"grad_norm": 1.0, "update_ratio": update_ratio, **options.pop("metrics", {})}
    totals = {} if loss is None else {"loss": np.asarray(loss, dtype=np.float64)}
    return run_of("updates", layers, metrics, globals={**totals, **options.pop("globals", {})}, **options)


def only(run: Run) -> Finding:
    (finding,) = diagnose(run)
    return finding


def codes(run: Run) -> list[str]:
    return [finding.code for finding in diagnose(run)]


# ------------------------------------------------------------------ too large


def streak(length: int, value: float = 0.3) -> npt.NDArray[np.float64]:
    ratio = np.full((40, 3), 1e-3)
    ratio[2 : 2 + length, 1] = value
    return ratio


def test_steps_that_overwrite_a_layer_five_times_in_a_row() -> None:
    finding = only(run_with(streak(5), WORSE))
    assert (finding.code, finding.severity, finding.layers) == ("update_ratio_high", Severity.WARNING, ("fc1",))
    assert (finding.first_step, finding.last_step) == (20, 60)
    assert "one changed fc1 by 0.3 of its size, and 1 layer by 0.05 or more in 5 records in a row" in finding.message
    assert "Multiply the learning rate by 1e-2" in finding.hint
    assert finding.evidence == {"largest_update_ratio": pytest.approx(0.3), "threshold": 0.1}


@pytest.mark.parametrize(
    ("ratio", "loss"),
    [(streak(4), WORSE), (streak(5, 0.099), WORSE), (streak(5), FALLING), (streak(5), np.geomspace(2.3, 1.5, 40))],
    ids=["four", "below", "the loss is down", "the loss comes down slowly and never rose"],
)
def test_large_steps_that_are_none_or_do_no_harm(ratio: npt.ArrayLike, loss: npt.ArrayLike) -> None:
    assert diagnose(run_with(ratio, loss)) == ()


@pytest.mark.parametrize(
    ("record", "found"),
    [(2, []), (3, ["update_ratio_high"]), (7, ["update_ratio_high"]), (8, []), (20, [])],
    ids=["before them", "behind the first", "behind the last", "later", "long after"],
)
def test_one_bad_loss_is_the_fault_of_large_steps_where_it_comes_behind_one(record: int, found: list[str]) -> None:
    loss = FLAT.copy()
    loss[record] = 20
    assert codes(run_with(streak(5), loss)) == found
    loss[record] = 2.3 * 3.4  # 1.48 times the start in the mean of five records
    assert codes(run_with(streak(5), loss)) == []


def test_one_bad_loss_is_the_fault_of_the_layer_that_took_the_large_steps_before_it_and_of_five_in_a_row() -> None:
    ratio, loss = streak(5), FLAT.copy()
    ratio[20:25, 2] = 0.3
    loss[5] = 20
    assert only(run_with(ratio, loss)).layers == ("fc1",)
    assert codes(run_with(streak(4), loss)) == []


def test_a_loss_that_is_no_number_is_as_bad_as_can_be_where_it_was_one_that_was_measured() -> None:
    loss = FLAT.copy()
    loss[5] = math.nan
    assert codes(run_with(streak(5), loss)) == []
    measured = run_with(streak(5), loss, globals={"nonfinite_loss": np.arange(40.0) == 5})
    assert "update_ratio_high" in codes(measured)


def test_what_moves_a_layer_without_a_gradient_is_no_step_of_its_own() -> None:
    norms = np.ones((40, 3))
    norms[:, 1] = 0
    assert "update_ratio_high" not in codes(run_with(streak(5), WORSE, metrics={"grad_norm": norms}))


def test_large_steps_in_the_latter_half_of_the_records_are_told_and_in_the_former_are_not() -> None:
    ratio = np.full((40, 3), 1e-3)
    ratio[20:, 1] = 0.3
    assert only(run_with(ratio, FLAT)).layers == ("fc1",)
    assert codes(run_with(ratio[::-1], FLAT)) == []


def test_one_bad_loss_says_nothing_of_a_step_that_was_skipped_nor_of_a_layer_that_began_at_zero() -> None:
    loss = FLAT.copy()
    loss[5] = 20
    run = run_with(streak(5), loss)
    assert codes(run) == ["update_ratio_high"]
    assert codes(replace(run, globals={**run.globals, "skipped": np.arange(len(loss)) == 5})) == []
    weights = np.ones_like(run.metric("update_ratio"))
    weights[0] = 0
    assert codes(replace(run, metrics={**run.metrics, "weight_norm": weights})) == []


def test_losses_that_are_missing_at_first_do_not_count_as_worse() -> None:
    loss = np.geomspace(2.3, 1.5, 40)
    loss[:3] = math.nan
    assert diagnose(run_with(streak(6), loss)) == ()


def test_infinite_ratios_are_none() -> None:
    assert diagnose(run_with(streak(6, math.inf), WORSE)) == ()


def test_what_was_not_measured_is_no_large_step() -> None:
    ratio = streak(1)
    ratio[3:] = math.nan
    assert diagnose(run_with(ratio, WORSE)) == ()


def test_a_ratio_that_wavers_about_the_mark_is_one_streak() -> None:
    ratio = streak(5)
    ratio[3:6:2, 1] = 0.07
    assert codes(run_with(ratio, WORSE)) == ["update_ratio_high"]
    ratio[4, 1] = 0.04
    assert codes(run_with(ratio, WORSE)) == []


@pytest.mark.parametrize("loss", [FLAT, None], ids=["flat", "unknown"])
def test_where_the_loss_does_not_rise_large_steps_have_to_last(loss: npt.ArrayLike | None) -> None:
    ratio = streak(40)
    assert codes(run_with(ratio, loss)) == ["update_ratio_high"]
    assert diagnose(run_with(ratio[:10], FLAT[:10] if loss is not None else None, records=10)) == (), "not for long"
    ratio[:21, 1] = 1e-3
    assert diagnose(run_with(ratio, loss)) == (), "in less than half of the records"
    ratio[:21, 1], ratio[-1, 1] = 0.3, 1e-3
    assert diagnose(run_with(ratio, loss)) == (), "no more"


def test_a_layer_that_starts_at_zero_may_take_large_steps() -> None:
    ratio = np.full((40, 3), 1e-3)
    ratio[:, 2] = [math.nan, *(1 / np.arange(1, 40))]
    assert diagnose(run_with(ratio, np.geomspace(2.3, 1.9, 40))) == ()


# ------------------------------------------------------------------ too small


def test_a_net_that_stands_still() -> None:
    finding = only(run_with([1e-9, 1e-8, 1e-7], FLAT))
    assert (finding.code, finding.severity) == ("update_ratio_low", Severity.WARNING)
    assert finding.layers == ("fc0", "fc1", "fc2")
    assert "a typical step moves fc0 by 1.0e-09 of its size" in finding.message
    assert "Multiply the learning rate by 1e5" in finding.hint


@pytest.mark.parametrize(
    ("ratio", "loss"),
    [(1.1e-6, FLAT), (1e-9, FALLING), (1e-9, np.full(40, 4e-4)), (1e-9, None)],
    ids=["above", "learned", "nothing left to learn", "no loss to tell"],
)
def test_small_steps_that_are_none_or_do_no_harm(ratio: float, loss: npt.ArrayLike | None) -> None:
    assert diagnose(run_with(ratio, loss)) == ()


def test_a_warm_up_is_no_standstill() -> None:
    ratio = np.broadcast_to(np.linspace(0, 1e-6, 40)[:, None], (40, 3))
    assert diagnose(run_with(ratio, FLAT)) == ()
    assert codes(run_with(ratio[::-1], FLAT)) == ["update_ratio_low"]


def test_a_head_that_is_idle_or_a_step_that_was_skipped_does_not_stand_still() -> None:
    ratio, gradient = np.full((40, 3), 1e-3), np.ones((40, 3))
    ratio[::4], ratio[1::4], ratio[2::4] = 0, 0, 0
    gradient[::4], gradient[1::4] = 0, math.nan
    skipped = (np.arange(40) % 4 == 2).astype(float)
    idle = {"grad_norm": gradient}
    assert diagnose(run_with(ratio, FLAT, metrics=idle, globals={"skipped": skipped})) == ()
    assert codes(run_with(ratio, FLAT)) == ["update_ratio_low"]


def test_weights_that_round_every_step_away() -> None:
    assert "weights in half precision, which round small steps away" in only(run_with(0.0, FLAT)).message


def test_embeddings_are_judged_by_their_pace_over_the_run_and_norms_are_not() -> None:
    run = run_with([1e-9, 1e-3, 1e-3], FLAT)
    for kind, found in (("embedding", ["uneven_learning_speed"]), ("normalization", [])):
        layers = (Layer("first", kind, kind), *run.layers[1:])
        assert codes(run_of("first", layers, run.metrics, globals=run.globals)) == found
    words = (Layer("words", "Embedding", "embedding"), *run.layers[1:])
    large = run_with([0.5, 1e-3, 1e-3], WORSE)
    assert diagnose(run_of("words", words, large.metrics, globals=large.globals)) == (), "few rows move at a time"


# ------------------------------------------------------------------ uneven


def test_a_layer_a_thousand_times_slower() -> None:
    finding = only(run_with([9e-7, 1e-4, 1e-3], FLAT))
    assert (finding.code, finding.severity, finding.layers) == (
        "uneven_learning_speed",
        Severity.WARNING,
        ("fc0",),
    )
    assert (
        "fc0 moves by 9.0e-07 of its size in a typical step, fc2 by 1.0e-03: 1 layer at 1/1000 of the"
        in finding.message
    )
    assert "that of fc0 would need 1,000 times as much" in finding.hint


@pytest.mark.parametrize(
    ("ratio", "loss"),
    [([1.1e-6, 1e-4, 1e-3], FLAT), ([1e-8, 1e-4, 1e-3], FALLING), ([math.nan, 1e-4, 1e-3], FLAT)],
    ids=["less than a thousand", "learned", "frozen"],
)
def test_speeds_that_differ_less_or_do_no_harm(ratio: npt.ArrayLike, loss: npt.ArrayLike) -> None:
    assert diagnose(run_with(ratio, loss)) == ()


def test_a_layer_of_a_few_records_has_no_pace() -> None:
    ratio = np.full((40, 3), 1e-3)
    ratio[:, 0] = math.nan
    for records, found in ((4, []), (5, ["uneven_learning_speed"])):
        ratio[-records:, 0] = 1e-8
        assert codes(run_with(ratio, FLAT)) == found


def test_a_threshold_of_the_users_own() -> None:
    run = run_with([1e-5, 1e-4, 1e-3], FLAT)
    assert diagnose(run) == ()
    (finding,) = diagnose(run, Thresholds(uneven_ratio=50))
    assert "at 1/50 of the fastest pace or less" in finding.message


def test_layers_whose_gradient_vanished_are_not_slow_too() -> None:
    metrics = {"grad_norm": [1e-9, 1e-4, 1.0]}
    assert codes(run_with([1e-12, 1e-7, 1e-3], FLAT, metrics=metrics)) == ["vanishing_gradient"]


@pytest.mark.parametrize("records", [0, 1, 4, 9])
def test_a_few_records_are_too_few(records: int) -> None:
    for ratio in (1e-9, [1e-9, 1e-3, 1e-3]):
        assert diagnose(run_with(ratio, FLAT[:records], records=records)) == ()
        assert len(diagnose(run_with(ratio, FLAT[:10], records=10))) == 1


def test_forty_steps_are_enough_to_tell() -> None:
    for steps, found in ((40, []), (41, ["update_ratio_low"])):
        run = run_with(1e-9, np.full(steps, 2.3), records=steps)
        assert codes(replace(run, steps=np.arange(steps))) == found


@pytest.mark.parametrize(
    ("worse", "milder", "sound", "loss", "code"),
    [
        (0.4, 0.3, 1e-3, WORSE, "update_ratio_high"),
        (2e-8, 5e-8, 1e-5, FLAT, "update_ratio_low"),
        (1e-7, 2e-7, 1e-3, FLAT, "uneven_learning_speed"),
    ],
)
def test_layers_that_are_hit_alike_come_in_their_order(
    worse: float, milder: float, sound: float, loss: npt.ArrayLike, code: str
) -> None:
    layers = [Layer(f"fc{i}", "Linear", "linear") for i in range(60)]
    metrics: dict[str, npt.ArrayLike] = {"grad_norm": 1.0, "update_ratio": [worse, milder] * 20 + [sound] * 20}
    finding = only(run_of("wide", layers, metrics, globals={"loss": np.asarray(loss)}))
    assert (finding.code, finding.layers) == (code, tuple(f"fc{i}" for i in (*range(0, 40, 2), *range(1, 40, 2))))


def test_columns_of_nothing_but_nan_are_not_judged() -> None:
    assert diagnose(run_with(math.nan, FLAT)) == ()
    assert diagnose(run_with(math.inf, FALLING)) == ()
