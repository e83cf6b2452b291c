"""The rules about a set-up, on either side of each threshold."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gradscope import Finding, Layer, Run, Severity, Thresholds
from gradscope.records import InitialWeights, InputMoments, OutputActivation, SaturatingStack, Setup
from gradscope.rules import diagnose
from gradscope.rules.setup import GROSS
from tests.hand_written_runs import COLUMNS, run_of


def run_with(setup: Setup, records: int = 1, **options: Any) -> Run:
    return run_of("set-up", (), {}, records=records, setup=setup, **options)


def weights(tau: float, omega: float = 0.0, number: int = 10**6, units: int = 10**3, layer: str = "fc") -> Setup:
    return Setup(selu_weights=(InitialWeights(layer, omega, tau, number, units),))


def verdict(setup: Setup) -> Severity | None:
    """How bad `setup` is found: None where nothing is said."""
    findings = diagnose(run_with(setup))
    assert len(findings) <= 1
    return findings[0].severity if findings else None


def only(setup: Setup, **options: Any) -> Finding:
    (finding,) = diagnose(run_with(setup, **options))
    return finding


def test_nothing_is_said_of_an_empty_set_up_with_or_without_records() -> None:
    assert diagnose(run_with(Setup(), records=0)) == diagnose(run_with(Setup())) == ()


# ------------------------------------------------------------------ the numbers of the docstrings


def selu_map(mean: float, variance: float, tau: float) -> tuple[float, float]:
    """Mean and variance behind a layer of weights with mean zero: equations 4 and 5 of the paper by a sum."""
    z = np.linspace(-12, 12, 100_001)
    density = np.exp(-z * z / 2) / np.exp(-z * z / 2).sum()
    x = z * math.sqrt(tau * (variance + mean * mean))
    y = 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0)))
    after = float((density * y).sum())
    return after, float((density * y * y).sum()) - after * after


def variances(tau: float, second_moment: float = 1.0, layers: int = 16) -> list[float]:
    mean, variance, found = 0.0, second_moment, []
    for _ in range(layers):
        mean, variance = selu_map(mean, variance, tau)
        found.append(variance)
    return found


@pytest.mark.parametrize(
    ("tau", "expected"),
    [
        (1 / 3, [0.42, 0.20, 0.06, 0.01, 0.00]),
        (1 / GROSS, [0.70, 0.53, 0.35, 0.22, 0.15]),
        (0.95, [0.96, 0.93, 0.89, 0.85, 0.83]),
        (1.10, [1.08, 1.14, 1.24, 1.34, 1.40]),
        (GROSS, [1.41, 1.85, 2.72, 4.18, 5.86]),
        (2.0, [1.71, 2.62, 4.90, 11.35, 34.78]),
    ],
)
def test_the_table_behind_gross(tau: float, expected: list[float]) -> None:
    found = variances(tau)
    assert [found[i - 1] for i in (1, 2, 4, 8, 16)] == pytest.approx(expected, rel=0.01, abs=0.006)


def test_how_long_a_far_input_takes_to_come_back() -> None:
    def inside(second_moment: float) -> int:
        return [0.8 <= v <= 1.5 for v in variances(1.0, second_moment)].index(True) + 1

    assert (inside(4.0), inside(0.25)) == (6, 8)


# ------------------------------------------------------------------ SELU


@pytest.mark.parametrize(
    ("tau", "expected"),
    [
        (1.0, None),
        (0.951, None),
        (1.099, None),
        (0.94, Severity.INFO),
        (1.11, Severity.INFO),
        (0.645, Severity.INFO),
        (1.56, Severity.INFO),
        (0.635, Severity.WARNING),
        (1.57, Severity.WARNING),
        (1 / 3, Severity.WARNING),
        (2.0, Severity.WARNING),
    ],
)
def test_tau_on_either_side_of_its_marks(tau: float, expected: Severity | None) -> None:
    assert verdict(weights(tau)) == expected


@pytest.mark.parametrize(("number", "expected"), [(9, None), (36, None), (72, Severity.WARNING)])
def test_few_weights_prove_nothing(number: int, expected: Severity | None) -> None:
    assert verdict(weights(1 / 3, number=number, units=4)) == expected


def test_the_message_knows_the_usual_initialisations_and_names_the_worst_first() -> None:
    setup = Setup(selu_weights=(*weights(1.2, layer="a").selu_weights, *weights(2.0, layer="b").selu_weights))
    finding = only(setup)
    assert finding.layers == ("b", "a")
    assert finding.message == (
        "Not set up as SELU needs it: the squared weights of a unit of b sum up to τ = 2.00, where LeCun-normal "
        "weights have 1 and kaiming_normal_ for ReLU 2, and likewise 1 other layer."
    )
    assert "kaiming_normal_(m.weight, nonlinearity='linear')" in finding.hint
    assert finding.evidence == {"tau": 2.0}


@pytest.mark.parametrize(
    ("omega", "units", "expected"),
    [
        (0.09, 10**6, None),
        (0.3, 100, None),
        (0.4, 100, None),
        (0.3, 10**4, Severity.INFO),
        (-0.9, 100, Severity.INFO),
        (1.1, 100, Severity.WARNING),
        (1.1, 4, None),
    ],
)
def test_omega_counts_beyond_its_bounds_and_its_draw(omega: float, units: int, expected: Severity | None) -> None:
    assert verdict(weights(1.0, omega, units=units)) == expected


@pytest.mark.parametrize(
    ("p", "expected"),
    [(0.0, None), (0.05, Severity.WARNING), (0.5, Severity.WARNING)],
)
def test_plain_dropout(p: float, expected: Severity | None) -> None:
    assert verdict(Setup(plain_dropouts={"drop": p})) == expected


@pytest.mark.parametrize(
    ("mean", "variance", "expected"),
    [
        (0.0, 1.0, None),
        (0.0, 0.25, None),
        (0.0, 4.0, None),
        (0.5, 0.25, None),
        (0.9, 0.95, None),
        (0.0, 0.24, Severity.INFO),
        (0.0, 4.1, Severity.INFO),
        (1.0, 0.95, Severity.INFO),
        (0.13, 0.095, Severity.INFO),
        (33.3, 6170.0, Severity.INFO),
        (math.nan, 1.0, None),
        (1e300, 1e300, Severity.INFO),
    ],
)
def test_inputs(mean: float, variance: float, expected: Severity | None) -> None:
    assert verdict(Setup(selu_input=InputMoments("fc", mean, variance))) == expected


def test_all_causes_make_one_finding_the_worst_first() -> None:
    setup = replace(
        weights(1.2), plain_dropouts={"drop": 0.5}, normalized_selus=("act",), selu_input=InputMoments("in", 0.0, 99.0)
    )
    finding = only(setup)
    assert (finding.severity, finding.layers) == (Severity.WARNING, ("drop", "fc", "in", "act"))
    assert finding.hint.startswith("In place of Dropout: torch.nn.AlphaDropout(p)")
    assert set(finding.evidence) == {"dropout", "input_mean", "input_variance", "tau", "normalized_selus"}


def test_thresholds_can_be_widened() -> None:
    wide = Thresholds(selu_tau=(0.3, 3.0))
    assert diagnose(run_with(weights(2.0), thresholds=wide)) == ()


# ------------------------------------------------------------------ the others


@pytest.mark.parametrize(("gain", "found"), [(0.9e-3, True), (1.1e-3, False), (math.nan, False)])
def test_a_saturating_stack(gain: float, found: bool) -> None:
    findings = diagnose(run_with(Setup(saturating_stack=SaturatingStack(("a", "b"), gain))))
    assert [(f.code, f.severity, f.layers) for f in findings] == (
        [("vanishing_gradient", Severity.INFO, ("a", "b"))] if found else []
    )


def test_what_an_output_activation_does() -> None:
    rectified = only(Setup(output_activation=OutputActivation("relu", "ReLU", 10)))
    assert (rectified.code, rectified.severity) == ("dead_relu", Severity.INFO)
    flat = only(Setup(output_activation=OutputActivation("softmax", "Softmax", 10)))
    assert (flat.code, flat.severity) == ("vanishing_gradient", Severity.INFO)
    least = -math.log(math.e / (math.e + 9))
    assert f"of 10 classes none gets a probability above {math.exp(-least):.2f}" in flat.message
    assert f"the loss stays above {least:.2f}" in flat.message
    assert "All logits lie in [-1, 1], and" in only(Setup(output_activation=OutputActivation("out", "tanh"))).message


def test_two_classes_are_classes_and_one_is_a_decision_of_its_own() -> None:
    def told(classes: int) -> str:
        return only(Setup(output_activation=OutputActivation("act", "Sigmoid", classes))).message

    assert f"of 2 classes none gets a probability above {math.e / (math.e + 1):.2f}" in told(2)
    assert "classes" not in told(1)


@pytest.mark.parametrize(("count", "listed"), [(1, "a: "), (3, "a, b, c: "), (4, "a, b, c and others: ")])
def test_a_list_of_layers_is_cut_after_the_third(count: int, listed: str) -> None:
    assert only(Setup(in_no_optimizer=tuple("abcd"[:count]))).message.startswith(f"{listed}trainable")


def test_in_no_optimizer() -> None:
    finding = only(Setup(in_no_optimizer=("a", "b", "c", "d")))
    assert (finding.code, finding.severity, finding.layers) == ("no_gradient", Severity.INFO, ("a", "b", "c", "d"))
    assert finding.message.startswith(
        "a, b, c and others: trainable parameters there are part of the loss, but in no optimizer"
    )


@pytest.mark.parametrize(("missing", "found"), [([1, 1], True), ([1, 0], False), ([math.nan, math.nan], False)])
def test_never_called_until_a_gradient_comes(missing: list[float], found: bool) -> None:
    column = replace(COLUMNS[0], name="no_gradient_fraction", unit="fraction")
    run = run_of(
        "run",
        [Layer("idle", "Linear", "linear")],
        {"no_gradient_fraction": np.array(missing)[:, None]},
        columns=(*COLUMNS, column),
        records=2,
        setup=Setup(never_called=("idle", "gone")),
    )
    assert [f.layers for f in diagnose(run)] == ([("idle",)] if found else [])
