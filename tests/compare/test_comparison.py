"""Where a run parts from a baseline: closed forms on hand-written runs, and nets that were trained."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from gradscope import GradScope, Layer, Run
from gradscope.compare.comparison import LASTING, PACE, Parting, _envelope, compare
from tests.hand_written_runs import COLUMNS, empty_run, run_of
from tests.models import Batches, Classifier, mlp, trainer

LAYERS = (Layer("fc0", "Linear", "linear"), Layer("act0", "ReLU", "rectifier"), Layer("fc1", "Linear", "linear"))
BASE = run_of("base", LAYERS, {"grad_norm": [1.0, math.nan, 1.0], "dead_fraction": [math.nan, 0.1, math.nan]})


def changed(records: slice, layer: int, value: npt.ArrayLike, metric: str = "grad_norm", run: Run = BASE) -> Run:
    """`run` with other values in some records of a layer."""
    values = np.array(run.metric(metric))
    values[records, layer] = value
    return replace(run, name="run", metrics={**run.metrics, metric: values})


def every(steps: int, run: Run) -> Run:
    """`run` with its records so many steps apart."""
    return replace(run, steps=np.arange(len(run.steps), dtype=np.int64) * steps)


def test_a_run_does_not_part_from_itself() -> None:
    comparison = compare(BASE, BASE)
    assert (comparison.run, comparison.baseline, comparison.records, comparison.layers) == ("base", "base", 40, 3)
    assert comparison.parting is None
    assert comparison.has_enough


@pytest.mark.parametrize("value", [11.0, 1 / 11, 0.0, 1e30])
def test_a_layer_parts_when_it_is_further_away_than_a_factor_of_ten(value: float) -> None:
    parting = compare(changed(slice(20, None), 2, value), BASE).parting
    assert parting == Parting(200, "fc1", "grad_norm", float(np.float32(value)), 1.0, ("fc1",))


@pytest.mark.parametrize("value", [9.0, 1 / 9, math.nan])
def test_within_a_factor_of_ten_it_does_not_nor_where_nothing_was_measured(value: float) -> None:
    assert compare(changed(slice(20, None), 2, value), BASE).parting is None


@pytest.mark.parametrize(("share", "parts"), [(0.45, False), (0.55, True)])
def test_fractions_are_compared_by_their_difference(share: float, parts: bool) -> None:
    parting = compare(changed(slice(20, None), 1, share, "dead_fraction"), BASE).parting
    assert (parting is not None) == parts
    if parting is not None:
        assert (parting.layer, parting.metric) == ("act0", "dead_fraction")
        assert (parting.value, parting.bound) == pytest.approx((0.55, 0.1))


def test_it_has_to_last_on_the_same_side() -> None:
    assert compare(changed(slice(20, 20 + LASTING - 1), 2, 100.0), BASE).parting is None
    lasting = compare(changed(slice(20, 20 + LASTING), 2, 100.0), BASE).parting
    assert lasting is not None
    assert lasting.step == 200
    assert compare(changed(slice(20, 30), 2, [100.0, 0.01] * 5), BASE).parting is None


def test_records_in_which_the_layer_was_not_measured_do_not_interrupt() -> None:
    parting = compare(changed(slice(20, 29), 2, [100.0, math.nan] * 4 + [100.0]), BASE).parting
    assert parting is not None
    assert parting.step == 200


def test_the_earliest_step_is_named_and_the_first_in_depth_of_those_that_part_there() -> None:
    later = changed(slice(21, None), 0, 100.0)
    parting = compare(changed(slice(20, None), 2, 100.0, run=later), BASE).parting
    assert parting is not None
    assert (parting.step, parting.layer, parting.layers) == (200, "fc1", ("fc0", "fc1"))
    same = changed(slice(20, None), 0, 20.0)
    parting = compare(changed(slice(20, None), 2, 1e6, run=same), BASE).parting
    assert parting is not None
    assert (parting.step, parting.layer, parting.value) == (200, "fc0", 20.0)


def test_the_metric_that_is_furthest_away_is_named() -> None:
    run = changed(slice(20, None), 1, 0.9, "dead_fraction")
    base = replace(BASE, metrics={**BASE.metrics, "act_var": np.full((40, 3), 1.0, dtype=np.float32)})
    parting = compare(
        changed(slice(20, None), 1, 1e9, "act_var", replace(run, metrics={**base.metrics, **run.metrics})), base
    )
    assert parting.parting is not None
    assert parting.parting.metric == "act_var"


@pytest.mark.parametrize(("value", "parts"), [(1.3e3, False), (1.4e3, True), (1 / 300, False), (1 / 350, True)])
def test_a_baseline_that_varies_allows_for_more(value: float, parts: bool) -> None:
    """Decades 0 and 0.6 in turn, jumps of 0.6: 4 σ = 4 · 1.4826 · 0.6 / √2 = 2.516 beyond 0.6 (1306) and 0 (1/328)."""
    base = changed(slice(None), 2, [1.0, 10**0.6] * 20)
    parting = compare(changed(slice(20, None), 2, value), base).parting
    assert (parting is not None) == parts
    if parting is not None:
        assert parting.bound == pytest.approx(10**0.6 if value > 1 else 1.0)


def test_a_run_may_learn_half_as_fast_again_but_not_slower() -> None:
    """The baseline falls at step 200: what has not until 300 has missed all that the baseline was about then."""
    base = changed(slice(20, None), 2, 1e-3)
    assert compare(changed(slice(30, None), 2, 1e-3), base).parting is None
    assert compare(changed(slice(14, None), 2, 1e-3), base).parting is None
    late = compare(BASE, base).parting
    assert late is not None
    assert (late.step, late.layer) == (300, "fc1")
    assert late.bound == pytest.approx(1e-3)


def test_what_is_no_number_until_the_end_parts_at_once() -> None:
    flags = changed(slice(38, None), 2, 1.0, "nonfinite")
    parting = compare(changed(slice(38, None), 2, math.nan, run=flags), BASE).parting
    assert parting == Parting(380, "fc1", "grad_norm", math.inf, 1.0, ("fc1",))
    assert compare(changed(slice(35, 38), 2, math.inf), BASE).parting is None


def test_records_are_matched_by_step() -> None:
    falling = 10.0 ** (-np.arange(40.0)[:, None] / 5)
    base = replace(BASE, metrics={"grad_norm": (falling * [1, math.nan, 1]).astype(np.float32)})
    half = replace(every(5, BASE), metrics={"grad_norm": (falling**0.5 * [1, math.nan, 1]).astype(np.float32)})
    assert compare(half, base).parting is None
    assert compare(every(10, half), base).parting is not None, "the same numbers at other steps"


def test_steps_that_the_baseline_does_not_have_are_left_out() -> None:
    run = every(20, changed(slice(21, None), 2, 100.0))
    comparison = compare(run, BASE)
    assert (comparison.records, comparison.parting) == (20, None)


def test_layers_are_matched_by_name_and_differences_are_told() -> None:
    others = (Layer("head", "Linear", "linear"), replace(LAYERS[1], type="SELU"), LAYERS[0])
    run = replace(BASE, layers=others, metrics={"grad_norm": np.full((40, 3), [1e9, math.nan, 1.0], dtype=np.float32)})
    comparison = compare(run, BASE)
    assert (comparison.only_in_run, comparison.only_in_baseline) == (("head",), ("fc1",))
    assert comparison.other_types == {"act0": ("SELU", "ReLU")}
    assert (comparison.layers, comparison.parting) == (2, None)


def test_what_cannot_be_compared_is_no_parting() -> None:
    few = run_of("few", LAYERS, {"grad_norm": 1.0}, records=LASTING - 1)
    stranger = replace(BASE, layers=tuple(replace(layer, name="x" + layer.name) for layer in LAYERS))
    for run, base in (
        (few, BASE),
        (stranger, BASE),
        (empty_run(), BASE),
        (BASE, empty_run()),
        (empty_run(), empty_run()),
    ):
        comparison = compare(run, base)
        assert comparison.parting is None
        assert not comparison.has_enough
    wild = run_of("wild", LAYERS, {"grad_norm": 1e9}, records=LASTING)
    assert compare(wild, few).parting is None, "of so few records nobody knows how far they spread"


def test_a_layer_with_few_records_in_the_baseline_does_not_part() -> None:
    rare = changed(slice(None), 2, [1.0] * (LASTING - 1) + [math.nan] * (41 - LASTING))
    assert compare(changed(slice(None), 2, 1e9), rare).parting is None
    assert compare(changed(slice(None), 2, 1e9), changed(slice(LASTING - 1, LASTING), 2, 1.0, run=rare)).parting


@pytest.mark.parametrize("apart", [1, 3, 10])
def test_the_envelope_is_that_of_a_loop(apart: int) -> None:
    rng = np.random.default_rng(0)
    steps, at = np.arange(90, dtype=np.int64) * apart, np.arange(0, 90 * apart, 7, dtype=np.int64)
    values = rng.normal(size=(90, 3))
    values[rng.random(values.shape) < 0.3] = np.nan
    low, high = _envelope(at, steps, values)
    for i, step in enumerate(at):
        first = max(i for i, s in enumerate(steps) if s <= step / PACE)
        last = min((i for i, s in enumerate(steps) if s >= step * PACE), default=89)
        about = values[first : last + 1]
        assert low[i].tolist() == pytest.approx(np.fmin.reduce(about).tolist(), nan_ok=True)
        assert high[i].tolist() == pytest.approx(np.fmax.reduce(about).tolist(), nan_ok=True)


@cache
def trained(seed: int, activation: Callable[[], nn.Module] = nn.ReLU, silent: bool = False) -> Run:
    torch.manual_seed(seed)
    model = Classifier(mlp(activation, (20, 32, 32, 4)), lr=0.01, optimizer=torch.optim.Adam)
    if silent:
        torch.nn.init.constant_(model.net.get_parameter("2.bias"), -100.0)
    scope = GradScope(every_n_steps=2, summary=False, on_finding={})
    trainer(scope, max_epochs=20).fit(model, Batches(size=32))
    assert scope.run is not None
    return scope.run


@pytest.mark.parametrize("activation", [nn.ReLU, pytest.param(nn.Tanh, marks=pytest.mark.slow)])
def test_two_seeds_of_a_net_do_not_part(activation: Callable[[], nn.Module]) -> None:
    for a, b in ((0, 1), (1, 0), (2, 0), (0, 2)):
        comparison = compare(trained(a, activation), trained(b, activation))
        assert comparison.has_enough
        assert comparison.parting is None


def test_a_sick_twin_parts() -> None:
    parting = compare(trained(0, silent=True), trained(1)).parting
    assert parting is not None
    assert (parting.step, parting.layer) == (0, "net.0")
    assert {"net.0", "net.2", "net.3"} <= set(parting.layers)


def test_all_that_is_compared_is_a_metric() -> None:
    from gradscope.compare.comparison import SCALES

    assert set(SCALES) <= {column.name for column in COLUMNS}
