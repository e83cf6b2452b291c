"""What must not change a diagnosis, and what may change it in one direction only.

Which rules look at layers in their order: those on the error signal (`vanishing_gradient`, `exploding_gradient`, and
through them `no_gradient`, `update_ratio_low`, `uneven_learning_speed` and the severity of `selu_drift`), for it is
compared with that nearest the loss, and `saturated_activation`, which leaves out what stands behind the last weight
layer. A layer in front that gets its share of the signal proves that nothing was lost. So of these it is not true that
a permutation of the layers permutes their findings, nor that a sound weight layer more takes away no finding.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import assume, example, given

from gradscope import Finding, Layer, Run, Thresholds, diagnose
from gradscope.rules import RULES
from gradscope.rules.activity import dead_relu, saturated_activation
from gradscope.rules.clipping import clipping_dominates
from gradscope.rules.gradients import exploding_gradient
from gradscope.rules.numerics import non_finite
from gradscope.rules.ranks import rank_outlier
from gradscope.rules.selu import selu_drift
from gradscope.rules.setup import in_no_optimizer, never_called, output_activation, selu_misconfigured
from gradscope.rules.thinning import LIMIT, thinned
from gradscope.rules.updates import update_ratio_high
from tests.properties.drawn_runs import SICK, beginning, rearranged, runs, with_layers

Rule = Callable[[Run], Iterator[Finding]]

WHATEVER_THE_ORDER = (
    clipping_dominates, dead_relu, in_no_optimizer, never_called, non_finite, output_activation, rank_outlier,
    selu_misconfigured, update_ratio_high,
)  # fmt: skip
LAYER_BY_LAYER = (dead_relu, non_finite, saturated_activation, selu_drift, update_ratio_high)
SOUND: dict[str, tuple[Layer, dict[str, float]]] = {
    "linear": (
        Layer("sound", "Linear", "linear"),
        {"grad_norm": 0.5, "weight_norm": 5.0, "update_ratio": 1e-3, "no_gradient_fraction": 0.0, "nonfinite": 0.0},
    ),
    "rectifier": (Layer("sound", "ReLU", "rectifier"), {"dead_fraction": 0.0, "act_mean": 0.4, "act_var": 0.5}),
    "saturating": (Layer("sound", "Tanh", "saturating"), {"saturated_fraction": 0.0, "act_mean": 0.0, "act_var": 0.5}),
    "self_normalizing": (Layer("sound", "SELU", "self_normalizing"), {"act_mean": 0.0, "act_var": 1.0}),
    "normalization": (Layer("sound", "LayerNorm", "normalization"), {"nonfinite": 0.0}),
}


def found(rule: Rule, run: Run) -> list[Finding]:
    with np.errstate(all="ignore"):
        return list(rule(run))


def told(findings: Any, shift: int = 0) -> list[tuple[Any, ...]]:
    """What findings say, but for the numbers in their texts."""
    return [(f.code, f.severity, f.layers, f.first_step - shift, f.last_step - shift, f.cause) for f in findings]


@given(runs())
def test_findings_are_about_the_run(run: Run) -> None:
    findings = diagnose(run)
    assert told(findings) == told(diagnose(run)), "the same each time"
    names, codes = {layer.name for layer in run.layers}, [f.code for f in findings]
    for finding in findings:
        assert len(set(finding.layers)) == len(finding.layers)
        assert set(finding.layers) <= names | {w.layer for w in run.setup.selu_weights}
        assert finding.first_step <= finding.last_step
        assert not finding.cause or codes.index(finding.cause) < codes.index(finding.code)
        json.dumps(finding.as_dict(), allow_nan=False)
    severities = [f.severity for f in findings if not f.cause]
    assert severities == sorted(severities, reverse=True), "the worst first"


@given(runs(), st.randoms(use_true_random=False))
def test_findings_move_with_the_layers(run: Run, random: Any) -> None:
    assert_moves(run, random.sample(range(len(run.layers)), len(run.layers)))


@pytest.mark.parametrize("what", SICK)
def test_findings_of_sick_runs_move_with_the_layers(what: str) -> None:
    assert_moves(SICK[what], list(range(len(SICK[what].layers)))[::-1])


def assert_moves(run: Run, order: list[int]) -> None:
    for rule in WHATEVER_THE_ORDER:
        before, after = found(rule, run), found(rule, rearranged(run, order))
        assert len(before) == len(after), rule
        for one, other in zip(before, after, strict=True):
            assert (one.code, one.severity, set(one.layers)) == (other.code, other.severity, set(other.layers))
            assert (one.first_step, one.last_step, one.hint) == (other.first_step, other.last_step, other.hint)
            np.testing.assert_equal(dict(one.evidence), dict(other.evidence))


@given(runs(), st.randoms(use_true_random=False))
def test_names_are_names_alone(run: Run, random: Any) -> None:
    """A rule that looks at a layer's name is wrong for whoever names layers otherwise."""
    new = dict(zip([layer.name for layer in run.layers], random.sample(range(100), len(run.layers)), strict=True))
    renamed = tuple(replace(layer, name=f"renamed{new[layer.name]}") for layer in run.layers)
    plain = replace(run, setup=Run.from_records("", [], ()).setup, rank_outliers=(), origin=None)
    expected = [
        (f.code, f.severity, tuple(f"renamed{new[name]}" for name in f.layers), f.first_step, f.last_step, f.cause)
        for f in diagnose(plain)
    ]
    assert told(diagnose(replace(plain, layers=renamed))) == expected


@given(runs(), st.integers(-30, 30))
def test_the_unit_of_gradients_does_not_matter(run: Run, exponent: int) -> None:
    """But beside the weights and the loss, with which `exploding_gradient` compares it at the start of a run."""
    factor = 2.0**exponent  # exact, unless a number leaves the range
    relative = replace(run, metrics={n: v for n, v in run.metrics.items() if n != "weight_norm"})
    with np.errstate(over="ignore"):
        metrics = {n: v * np.float32(factor) if n.startswith("grad") else v for n, v in relative.metrics.items()}
        totals = {n: v * factor if n.startswith("total_norm") else v for n, v in relative.globals.items()}
    scaled = replace(relative, metrics=metrics, globals=totals)
    norms = [run.metric("grad_norm"), scaled.metric("grad_norm")]
    assume(all((np.isnan(x) | (x == 0) | (np.isfinite(x) & (x > 1e-30)) | np.isinf(norms[0])).all() for x in norms))
    assert told(diagnose(scaled)) == told(diagnose(relative))


@given(runs(), st.sampled_from(["rectifier", "saturating", "self_normalizing", "normalization"]), st.integers(1, 5))
def test_sound_activations_behind_the_net_take_no_finding_away(run: Run, kind: str, count: int) -> None:
    layer, cells = SOUND[kind]
    more = with_layers(run, len(run.layers), [replace(layer, name=f"sound{i}") for i in range(count)], cells)
    before, after = diagnose(run), diagnose(more)
    # Where most SELUs start inside their bounds drift is information: findings may change places, and none is lost.
    assert {(f.code, f.layers) for f in before} == {(f.code, f.layers) for f in after}


@given(runs(), st.sampled_from(sorted(SOUND)), st.data())
def test_sound_layers_take_no_finding_away_from_others(run: Run, kind: str, data: st.DataObject) -> None:
    layer, cells = SOUND[kind]
    more = with_layers(run, data.draw(st.integers(0, len(run.layers))), [layer], cells)
    for rule in LAYER_BY_LAYER:
        before, after = found(rule, run), found(rule, more)
        assert [f.code for f in before] == [f.code for f in after][: len(before)], rule
        for one, other in zip(before, after, strict=False):
            assert set(one.layers) <= set(other.layers), rule
            assert layer.name not in other.layers, rule


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule is not selu_drift], ids=lambda rule: rule.__name__)
def test_a_short_run_is_short_whenever_it_began(rule: Rule) -> None:
    for run in SICK.values():
        part = beginning(replace(run, origin=None, rank_outliers=()), 12)
        close = replace(part, steps=np.arange(len(part.steps)))
        assert told(found(rule, replace(close, steps=close.steps + 500)), 500) == told(found(rule, close))


@given(runs(), st.integers(0, 10**9))
def test_it_does_not_matter_when_the_count_of_steps_begins(run: Run, shift: int) -> None:
    """But for SELUs, of which what comes before the first update tells of the initialisation."""
    run = replace(run, origin=None, rank_outliers=())
    later = replace(run, steps=run.steps + shift)
    for rule in RULES:
        if rule is not selu_drift:
            empty = shift if len(run.steps) else 0
            assert told(found(rule, later), empty) == told(found(rule, run)), rule


@example(SICK["a NaN that was seen"], 12)
@given(runs(), st.integers(0, 60))
def test_what_is_broken_stays_broken(run: Run, records: int) -> None:
    """Training goes on, and a run may recover: but not from a NaN, and not from gradients that exploded."""
    part = beginning(replace(run, origin=None), records)
    for before in found(non_finite, part):
        (after,) = found(non_finite, replace(run, origin=None))
        assert (after.layers, after.first_step, after.message) == (before.layers, before.first_step, before.message)
        assert after.last_step >= before.last_step
    norms = part.series("total_norm")
    settled = np.isfinite(norms).sum() >= 2 * run.thresholds.minimum_records
    if settled and any("start" in f.evidence for f in found(exploding_gradient, part)):
        assert found(exploding_gradient, run)


@example(SICK["steps that are too large"], 0.3, 0.05)
@given(runs(), st.floats(0.01, 1), st.floats(0.01, 1))
def test_a_stricter_threshold_finds_no_less(run: Run, one: float, other: float) -> None:
    strict, lax = sorted((one, other))
    marks: list[tuple[Rule, str, float]] = [
        (dead_relu, "dead_fraction", 1),
        (saturated_activation, "saturated_fraction", 1),
        (update_ratio_high, "update_ratio_high", 1),
        (clipping_dominates, "clipped_share", 1),
        (exploding_gradient, "exploding_ratio", 1e4),
    ]
    for rule, field, scale in marks:
        judged = [
            replace(run, thresholds=Thresholds.restored({field: max(x * scale, 1) if scale > 1 else x}))
            for x in (lax, strict)
        ]
        few, many = (found(rule, by) for by in judged)
        assert len(few) <= len(many), field
        if rule is not exploding_gradient:  # which has four ways, and tells of the first one
            for less, more in zip(few, many, strict=True) if few else ():
                assert set(less.layers) <= set(more.layers), field


@given(runs(longest=1000), st.integers(LIMIT - 5, LIMIT + 700))
def test_a_choice_of_records_keeps_what_is_extraordinary(run: Run, records: int) -> None:
    times = math.ceil(records / max(len(run.steps), 1))
    longer = replace(
        run,
        steps=np.arange(len(run.steps) * times) * 3,
        wall_times=np.arange(len(run.steps) * times, dtype=np.float64),
        metrics={n: np.concatenate([v] * times) for n, v in run.metrics.items()},
        globals={n: np.concatenate([v] * times) for n, v in run.globals.items()},
    )
    chosen = thinned(longer)
    assert len(chosen.steps) <= LIMIT
    assert set(chosen.steps.tolist()) <= set(longer.steps.tolist())
    assert len(longer.steps) > LIMIT or chosen is longer
    if len(longer.steps):
        assert (chosen.steps[0], chosen.steps[-1]) == (longer.steps[0], longer.steps[-1])
    whole, part = (found(non_finite, replace(r, origin=None)) for r in (longer, chosen))
    seen = longer.series("nonfinite_loss") == 1
    seen |= (longer.metric("nonfinite") > 0).any(axis=1)
    if whole and seen.any():
        assert [f.first_step for f in part] == [f.first_step for f in whole]
