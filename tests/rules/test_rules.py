"""Rules on runs written by hand: each disease, its sound neighbour, and what must not be mistaken for it."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gradscope import Finding, Flight, Layer, Run, Severity, Thresholds, diagnose
from gradscope.records import InitialWeights, Origin, Setup
from tests.hand_written_runs import COLUMNS, empty_run, run_of, sound_run

NONE = math.nan


def mlp_run(grad_norm: npt.ArrayLike, depth: int = 5, **options: Any) -> Run:
    """A run of `depth` linear layers: `grad_norm` is broadcast to [records, depth]."""
    layers = [Layer(f"fc{i}", "Linear", "linear") for i in range(depth)]
    metrics = {"grad_norm": grad_norm, **options.pop("metrics", {})}
    columns = (*COLUMNS, replace(COLUMNS[0], name="no_gradient_fraction", unit="fraction"))
    return run_of("mlp", layers, metrics, columns=columns, **options)


def activation_run(kind: str, type_name: str, metrics: dict[str, npt.ArrayLike], records: int = 40) -> Run:
    """A run of three activations of one kind, each after a linear layer, and a head."""
    layers: list[Layer] = []
    for i in range(3):
        layers += [Layer(f"fc{i}", "Linear", "linear"), Layer(f"act{i}", type_name, kind)]
    layers.append(Layer("head", "Linear", "linear"))
    spread = {name: spread_over_activations(values, records) for name, values in metrics.items()}
    return run_of("activations", layers, spread, records=records)


def spread_over_activations(values: npt.ArrayLike, records: int) -> npt.NDArray[np.float32]:
    matrix = np.full((records, 7), np.nan, dtype=np.float32)
    matrix[:, 1::2] = np.broadcast_to(np.asarray(values, dtype=np.float32), (records, 3))
    return matrix


def codes(findings: Sequence[Finding]) -> list[str]:
    return [finding.code for finding in findings]


def only(run: Run) -> Finding:
    (finding,) = diagnose(run)
    return finding


# ------------------------------------------------------------------ sound runs


@pytest.mark.parametrize("run", [sound_run(), empty_run(), mlp_run(1.0), mlp_run([0.01, 0.03, 0.1, 0.3, 1.0])])
def test_nothing_is_said_of_a_sound_run(run: Run) -> None:
    assert diagnose(run) == ()


@pytest.mark.parametrize("records", [0, 1, 2, 4])
def test_a_few_records_are_too_few_to_judge(records: int) -> None:
    assert diagnose(mlp_run([1e-9, 1e-7, 1e-5, 1e-3, 1], records=records)) == ()
    assert codes(diagnose(mlp_run([1e-9, 1e-7, 1e-5, 1e-3, 1], records=5))) == ["vanishing_gradient"]


def test_a_run_of_nothing_but_nan_is_not_judged() -> None:
    assert diagnose(mlp_run(NONE)) == ()


# ------------------------------------------------------------------ gradients


def test_vanishing_names_the_layers_below_a_thousandth_the_worst_first() -> None:
    finding = only(mlp_run([1e-6, 1e-8, 1e-5, 0.01, 1.0]))
    assert (finding.code, finding.severity) == ("vanishing_gradient", Severity.CRITICAL)
    assert finding.layers == ("fc1", "fc0", "fc2")
    assert finding.evidence["median_ratio"] == pytest.approx(1e-8, rel=1e-5)
    assert (finding.first_step, finding.last_step) == (0, 390)
    assert "fc1 gets 1.0e-08 of the error signal near the loss (median over 40 records), 3 layers" in finding.message


def test_scaling_all_gradients_changes_nothing_small_is_not_vanishing() -> None:
    converged = np.geomspace(1, 1e-9, 40)[:, None] * [0.2, 0.5, 0.3, 0.7, 1.0]
    assert diagnose(mlp_run(converged)) == ()
    sick = np.array([1e-6, 1e-5, 1e-4, 0.01, 1.0])
    assert only(mlp_run(sick)).layers == only(mlp_run(sick * 1e-12)).layers == ("fc0", "fc1", "fc2")


def test_a_blip_is_not_a_disease() -> None:
    norms = np.ones((40, 5))
    norms[10:25, 0] = 1e-6
    assert diagnose(mlp_run(norms)) == ()
    norms[:, 0] = 1e-6
    norms[10:25, 0] = 1
    finding = only(mlp_run(norms))
    assert finding.layers == ("fc0",)
    assert finding.last_step == 390


def test_a_gradient_that_is_sound_again_has_not_vanished_and_one_that_was_sound_at_first_is_a_remark() -> None:
    norms = np.ones((40, 5))
    norms[:35, 0] = 1e-6
    assert diagnose(mlp_run(norms)) == ()
    finding = only(mlp_run(norms[::-1]))
    assert finding.severity is Severity.INFO
    assert "It was not so at first" in finding.message


def test_a_signal_that_wavers_about_the_mark_was_so_from_the_start() -> None:
    norms = np.ones((40, 5))
    norms[::2, 0], norms[1::2, 0] = 2.5e-3, 9e-4
    assert only(mlp_run(norms)).severity is Severity.CRITICAL


@pytest.mark.parametrize(
    ("beyond", "back", "found"),
    [
        (9e-4, 2.9e-3, ["vanishing_gradient"]),
        (9e-4, 3.1e-3, []),
        (1.1e3, 340.0, ["exploding_gradient"]),
        (1.1e3, 330.0, []),
    ],
)
def test_a_signal_is_back_once_it_is_threefold_within_the_mark(beyond: float, back: float, found: list[str]) -> None:
    norms = np.ones((40, 5))
    norms[:, 0] = np.where(np.arange(40) % 3, back, beyond)
    assert codes(diagnose(mlp_run(norms))) == found


def test_near_zero_any_loss_is_sensitive_to_the_weights() -> None:
    resumed = {"loss": np.full(40, 5e-3), "total_norm": np.full(40, 0.1)}
    run = mlp_run([1e6, 1e4, 1e2, 1.0, 1.0], metrics={"weight_norm": 30.0}, globals=resumed)
    assert (only(run).code, only(run).severity) == ("exploding_gradient", Severity.INFO)


def test_a_loss_that_is_small_from_the_start_excuses_no_lost_signal_and_one_that_falls_does() -> None:
    small, falling = np.full(40, 5e-3), np.geomspace(5e-3, 1e-3, 40)
    lost = [1e-6, 1e-4, 1e-2, 0.1, 1.0]
    assert only(mlp_run(lost, globals={"loss": small})).severity is Severity.CRITICAL
    assert only(mlp_run(lost, globals={"loss": falling})).severity is Severity.INFO


@pytest.mark.parametrize(
    ("operation", "cure"),
    [
        ("LogBackward0", "clamp_min(1e-12).log()"),
        ("sqrt", "(x + 1e-12).sqrt()"),
        ("NativeLayerNormBackward0", "Clamp what goes into log, sqrt and division"),
        ("BinaryCrossEntropyWithLogitsBackward0", "Clamp what goes into log, sqrt and division"),
        ("ExpandBackward0", "Clamp what goes into log, sqrt and division"),
    ],
)
def test_the_cure_of_a_nan_goes_by_the_whole_name_of_its_operation(operation: str, cure: str) -> None:
    run = replace(mlp_run(1.0), origin=Origin(5, "fc1", "forward", operation))
    assert cure in only(run).hint


def test_what_stands_in_front_of_a_vanished_signal_has_none_either() -> None:
    assert diagnose(mlp_run([1.0, 1e-6, 1.0, 1.0, 1.0])) == (), "a branch behind a small gate"


def test_a_net_that_has_learned_is_only_remarked_on() -> None:
    learned = {"loss": np.geomspace(2.3, 0.5, 40)}
    assert only(mlp_run([1e-6, 1e-4, 1e-2, 0.1, 1.0], globals=learned)).severity is Severity.INFO
    assert only(mlp_run([1e6, 1e4, 100.0, 10.0, 1.0], globals=learned)).severity is Severity.INFO
    stuck = {"loss": np.geomspace(2.3, 1.0, 40)}
    assert only(mlp_run([1e-6, 1e-4, 1e-2, 0.1, 1.0], globals=stuck)).severity is Severity.CRITICAL


def test_the_cure_is_named_after_the_activation() -> None:
    run = mlp_run([1e-6, 1e-5, 1e-4, 0.01, 1.0])
    sigmoid = replace(run, layers=(*run.layers[:4], Layer("head", "Linear", "linear")))
    assert only(sigmoid).hint.startswith("Initialise to match the activation: torch.nn.init.kaiming_normal_")
    layers = (Layer("act", "Sigmoid", "saturating"), *run.layers)
    metrics = {"grad_norm": np.column_stack([np.full(40, NONE), run.metric("grad_norm")])}
    finding = only(run_of("sigmoids", layers, metrics))
    assert "a stack of Sigmoid, whose slope is at most 0.25" in finding.message
    assert finding.hint.startswith("Replace Sigmoid by ReLU, GELU or SELU")


def test_embeddings_and_norms_are_not_compared_over_depth() -> None:
    run = mlp_run([1e-6, 1.0, 1.0, 1.0, 1.0])
    for kind in ("embedding", "normalization"):
        layers = (Layer("first", "Embedding", kind), *run.layers[1:])
        assert diagnose(replace(run, layers=layers)) == ()


def test_a_gradient_that_underflows_to_zero_has_vanished() -> None:
    run = mlp_run([0.0, 0.0, 1e-30, 1e-12, 1.0], metrics={"no_gradient_fraction": [1, 1, 0, 0, 0]})
    finding = only(run)
    assert finding.code == "vanishing_gradient"
    assert set(finding.layers) == {"fc0", "fc1", "fc2", "fc3"}


def test_exploding_over_depth() -> None:
    finding = only(mlp_run([1e6, 1e4, 100.0, 10.0, 1.0]))
    assert (finding.code, finding.layers) == ("exploding_gradient", ("fc0", "fc1"))
    assert "fc0 gets 1.0e+06 times the error signal near the loss" in finding.message


def test_a_run_that_dies_young_is_judged_by_the_records_that_it_lived() -> None:
    lived = np.arange(40) < 2
    norms = np.where(lived[:, None], [1e6, 1e4, 100.0, 10.0, 1.0], NONE)
    totals = {"total_norm": np.where(lived, 1e6, NONE), "nonfinite_loss": (~lived).astype(float)}
    exploding, _ = diagnose(mlp_run(norms, globals=totals))
    assert (exploding.code, exploding.layers) == ("exploding_gradient", ("fc0", "fc1"))
    assert "grows on the way back" in exploding.message


def every_other(worse: float, milder: float) -> list[float]:
    return [worse, milder] * 20


IN_ORDER_OF_HARM = (*range(0, 40, 2), *range(1, 40, 2))


@pytest.mark.parametrize(
    ("code", "worse", "milder"), [("vanishing_gradient", 1e-7, 1e-6), ("exploding_gradient", 1e7, 1e6)]
)
def test_layers_that_are_hit_alike_come_in_their_order(code: str, worse: float, milder: float) -> None:
    finding = only(mlp_run([*every_other(worse, milder), *np.ones(20)], depth=60))
    assert (finding.code, finding.layers) == (code, tuple(f"fc{i}" for i in IN_ORDER_OF_HARM))


def test_exploding_over_training() -> None:
    total = np.full(40, 2.0)
    total[30:] = 5000
    norms = np.ones((40, 5))
    norms[30:, 2] = 4900
    finding = only(mlp_run(norms, globals={"total_norm": total}))
    assert (finding.code, finding.layers[0]) == ("exploding_gradient", "fc2")
    assert (finding.first_step, finding.last_step) == (300, 390)
    assert "grew from 2 at the start to 5e+03 at step 300" in finding.message
    assert "gradient_clip_val=2), the 90th percentile of the usual norms, touches 25% of the steps here" in finding.hint
    total[31:] = 2
    assert diagnose(mlp_run(1.0, globals={"total_norm": total})) == (), "a single spike"


@pytest.mark.parametrize("gradient", [NONE, 0.0], ids=["None", "zero"])
def test_no_gradient(gradient: float) -> None:
    finding = only(mlp_run([1.0, gradient, 1.0, 1.0, 1.0], metrics={"no_gradient_fraction": [0, 1, 0, 0, 0]}))
    assert (finding.code, finding.severity, finding.layers) == ("no_gradient", Severity.WARNING, ("fc1",))
    assert "fc1: trainable and in an optimizer, but never got a gradient in 40 records" in finding.message


def test_a_head_that_is_idle_at_times_is_no_fault() -> None:
    missing = np.zeros((40, 5))
    missing[:, 4] = 1
    missing[7, 4] = 0
    assert diagnose(mlp_run([1, 1, 1, 1, NONE], metrics={"no_gradient_fraction": missing})) == ()


def test_a_head_that_is_used_in_steps_between_records_only_is_no_fault() -> None:
    missing = {"no_gradient_fraction": [0, 1, 0, 0, 0], "weight_norm": 1.0, "update_ratio": [1e-3, 0, 1e-3, 1e-3, 1e-3]}
    assert codes(diagnose(mlp_run([1.0, NONE, 1.0, 1.0, 1.0], metrics=missing))) == ["no_gradient"]
    missing["weight_norm"] = np.linspace(1, 0.99, 40)[:, None]
    assert diagnose(mlp_run([1.0, NONE, 1.0, 1.0, 1.0], metrics=missing)) == ()
    missing["update_ratio"] = 1e-3
    decay_alone = mlp_run([1.0, 0.0, 1.0, 1.0, 1.0], metrics=missing)
    assert codes(diagnose(decay_alone)) == ["no_gradient"]


def test_a_layer_that_starts_at_zero_and_stays_there_gets_no_gradient() -> None:
    idle = {"no_gradient_fraction": [0, 0, 0, 0, 1], "weight_norm": [1, 1, 1, 1, 0]}
    assert only(mlp_run([1, 1, 1, 1, NONE], metrics=idle)).layers == ("fc4",)


def test_weights_that_move_unseen_are_seen_from_where_they_are_measured() -> None:
    norms = np.ones((40, 5))
    norms[:, 4] = [NONE, *np.linspace(1, 0.99, 39)]
    idle = {"no_gradient_fraction": [0, 0, 0, 0, 1], "weight_norm": norms}
    assert diagnose(mlp_run([1, 1, 1, 1, NONE], metrics=idle)) == ()


def huge_start(**series: npt.ArrayLike) -> Run:
    """A run of two layers, too few to compare over depth, that begins with a gradient 1e5 times its weights."""
    totals = {"total_norm": np.full(40, 1e6), "loss": np.full(40, 5e4), **series}
    metrics = {"weight_norm": 5.0}
    return mlp_run(1.0, depth=2, metrics=metrics, globals={k: np.asarray(v, dtype=float) for k, v in totals.items()})


def test_a_first_gradient_that_no_learning_rate_can_take() -> None:
    dead = np.where(np.arange(40) < 2, 1e6, NONE)
    nan = {"total_norm": dead, "loss": dead, "nonfinite_loss": np.isnan(dead)}
    finding = diagnose(huge_start(**nan))[0]
    assert (finding.code, finding.severity) == ("exploding_gradient", Severity.CRITICAL)
    assert "The gradient norm is 1e+06 at step 10, 1.4e+05 times that of the weights" in finding.message
    assert diagnose(huge_start(**nan))[1].cause == "exploding_gradient"
    small = {**nan, "total_norm": dead / 1e3}
    assert codes(diagnose(huge_start(**small))) == ["non_finite"], "a NaN of another cause"


def test_a_net_that_survives_such_a_start_is_told_by_its_sensitivity() -> None:
    assert codes(diagnose(huge_start())) == ["exploding_gradient"]
    assert diagnose(huge_start(loss=np.full(40, 1e5))) == (), "a large loss, as a sum over a batch has it"
    falls = huge_start(loss=np.geomspace(5e4, 100, 40))
    assert diagnose(falls)[0].severity is Severity.CRITICAL, "from a start that the weights inflated"


def test_an_explosion_between_two_records_is_read_from_the_flight_recorder() -> None:
    norms = np.full((50, 2), 1.0, dtype=np.float32)
    norms[47:, 1] = [1e2, 1e5, NONE]
    flight = Flight(np.arange(341, 391), np.full(50, 2.0), ("fc0", "fc1"), norms)
    loss = np.where(np.arange(40) < 39, 2.3, NONE)
    totals = {"loss": loss, "nonfinite_loss": np.isnan(loss).astype(float), "total_norm": np.where(loss > 0, 1.4, NONE)}
    run = mlp_run(1.0, depth=2, globals=totals, flights={"non_finite": flight})
    exploding, nan = diagnose(run)
    assert (exploding.code, exploding.layers, exploding.first_step) == ("exploding_gradient", ("fc1",), 389)
    assert (nan.code, nan.cause) == ("non_finite", "exploding_gradient")
    calm = replace(run, flights={"non_finite": replace(flight, grad_norm=norms[:, :1])})
    assert codes(diagnose(calm)) == ["non_finite"]


def test_what_is_usual_in_a_flight_is_its_first_half() -> None:
    norms = np.full((50, 1), 100.0, dtype=np.float32)
    norms[:10], norms[48:] = 1.0, 5e4
    flight = Flight(np.arange(50), np.full(50, 2.0), ("fc0",), norms)
    assert diagnose(mlp_run(1.0, flights={"non_finite": flight})) == ()
    norms[:13] = 1.0
    assert codes(diagnose(mlp_run(1.0, flights={"non_finite": flight}))) == ["exploding_gradient"]


def test_a_gradient_that_begins_at_zero_has_not_exploded_since() -> None:
    total = np.where(np.arange(40) < 10, 0.0, 2.0)
    assert diagnose(mlp_run(1.0, globals={"total_norm": total})) == ()


def test_what_is_frozen_is_no_fault() -> None:
    assert diagnose(mlp_run([NONE, NONE, 1, 1, 1], metrics={"no_gradient_fraction": [NONE, NONE, 0, 0, 0]})) == ()


# ------------------------------------------------------------------ activations


def test_dead_relu_names_the_layers_the_worst_first() -> None:
    finding = only(activation_run("rectifier", "ReLU", {"dead_fraction": [0.5, 0.3, 0.8]}))
    assert (finding.code, finding.severity) == ("dead_relu", Severity.WARNING)
    assert finding.layers == ("act2", "act0")
    assert "80% of the units of act2 fire for no sample any more, and those of 1 other layer" in finding.message
    everything = only(activation_run("rectifier", "ReLU", {"dead_fraction": 1.0}))
    assert everything.severity is Severity.CRITICAL


def test_units_that_die_midway_are_found_and_those_that_come_back_are_not() -> None:
    dead = np.zeros((40, 3))
    dead[38:, 1] = 0.6, 0.95
    finding = only(activation_run("rectifier", "ReLU", {"dead_fraction": dead}))
    assert (finding.layers, finding.severity) == (("act1",), Severity.CRITICAL)
    assert finding.first_step == 380
    dead[:30, 1], dead[30:, 1] = 0.9, 0.05
    assert diagnose(activation_run("rectifier", "ReLU", {"dead_fraction": dead})) == ()


def test_sparse_is_not_dead() -> None:
    assert diagnose(activation_run("rectifier", "ReLU", {"zero_fraction": 0.97, "dead_fraction": 0.3})) == ()


def test_a_window_that_is_not_full_does_not_judge() -> None:
    assert diagnose(activation_run("rectifier", "ReLU", {"dead_fraction": 0.9}, records=9)) == ()
    assert codes(diagnose(activation_run("rectifier", "ReLU", {"dead_fraction": 0.9}, records=10))) == ["dead_relu"]


def test_a_hinge_whose_margins_are_kept_is_not_dead() -> None:
    layers = [*(Layer(f"fc{i}", "Linear", "linear") for i in range(2)), Layer("loss.relu", "relu", "rectifier")]
    kept = np.where(np.arange(40) < 20, 0.8, 0.0)
    metrics = {"grad_norm": [1.0, 1.0, NONE], "dead_fraction": [NONE, NONE, 1.0]}
    assert diagnose(run_of("hinge", layers, metrics, globals={"loss": kept})) == ()
    stuck = run_of("dead output", layers, metrics, globals={"loss": kept + 0.2})
    assert codes(diagnose(stuck)) == ["dead_relu"]
    small = replace(stuck, globals={"loss": np.full(40, 0.008)})  # by the scale of its targets: it never came down
    assert codes(diagnose(small)) == ["dead_relu"]
    hidden = run_of("hidden", layers[::-1], {"grad_norm": [NONE, 1.0, 1.0], "dead_fraction": [1.0, NONE, NONE]})
    assert codes(diagnose(replace(hidden, globals={"loss": kept}))) == ["dead_relu"]
    assert codes(diagnose(replace(stuck, globals={}))) == ["dead_relu"]


def test_a_layer_in_front_of_a_dead_rectifier_is_not_blamed_for_its_gradient() -> None:
    missing = np.full((40, 7), np.nan, dtype=np.float32)
    missing[:, [0, 2]], missing[:, [4, 6]] = 1, 0
    for dead, found in ((1.0, ["dead_relu"]), (0.99, ["dead_relu"]), (0.98, ["dead_relu", "no_gradient"])):
        run = activation_run("rectifier", "ReLU", {"dead_fraction": [0.0, dead, 0.0]})
        sick = replace(run, metrics={**run.metrics, "no_gradient_fraction": missing})
        assert codes(diagnose(sick)) == found


def test_saturated() -> None:
    finding = only(activation_run("saturating", "Tanh", {"saturated_fraction": [0.2, 0.9, 0.6]}))
    assert (finding.code, finding.layers) == ("saturated_activation", ("act1", "act2"))
    assert "90% of the outputs of act1 (Tanh) sit within 1 % of a limit (median over 40 records)" in finding.message


def test_activations_that_are_saturated_alike_come_in_their_order() -> None:
    layers = [*(Layer(f"act{i}", "Tanh", "saturating") for i in range(40)), Layer("head", "Linear", "linear")]
    finding = only(run_of("tanhs", layers, {"saturated_fraction": [*every_other(0.9, 0.6), NONE]}))
    assert finding.layers == tuple(f"act{i}" for i in IN_ORDER_OF_HARM)


def test_a_sure_classifier_may_saturate_its_output() -> None:
    run = activation_run("saturating", "Sigmoid", {"saturated_fraction": [0.0, 0.0, 0.99]})
    assert codes(diagnose(run)) == ["saturated_activation"]
    keep = slice(0, 6)  # without the head the last sigmoid is the output
    output = replace(run, layers=run.layers[keep], metrics={k: v[:, keep] for k, v in run.metrics.items()})
    assert diagnose(output) == ()


def test_a_net_that_has_learned_may_be_saturated_and_one_that_has_not_may_not() -> None:
    late = np.zeros((40, 3))
    late[8:] = 0.9
    run = activation_run("saturating", "Sigmoid", {"saturated_fraction": late})
    falling, hard_batches = np.full(40, 0.1), np.arange(40) % 7 == 0
    falling[:8], falling[hard_batches] = 2.0, 1.9
    assert diagnose(replace(run, globals={"loss": falling})) == ()
    assert codes(diagnose(replace(run, globals={"loss": np.full(40, 2.0)}))) == ["saturated_activation"]
    relapsed = np.where(np.arange(40) < 12, falling, 2.0)
    assert codes(diagnose(replace(run, globals={"loss": relapsed}))) == ["saturated_activation"]


# ------------------------------------------------------------------ SELU


def test_selu_outside_from_the_start_is_a_warning_led_by_the_first_in_depth() -> None:
    finding = only(activation_run("self_normalizing", "SELU", {"act_mean": 0.02, "act_var": [1.0, 2.4, 9.0]}))
    assert (finding.code, finding.severity) == ("selu_drift", Severity.WARNING)
    assert finding.layers == ("act1", "act2")
    assert "act1 has mean 0.02 and variance 2.40 at step 0, outside the stated bounds" in finding.message
    assert "(mean in [-0.1, 0.1], variance in [0.8, 1.5])" in finding.message
    assert "kaiming_normal_(weight, nonlinearity='linear')" in finding.hint


def test_selu_that_leaves_later_is_information() -> None:
    mean = np.full((40, 3), 0.05)
    mean[1:] = 0.3
    finding = only(activation_run("self_normalizing", "SELU", {"act_mean": mean, "act_var": 1.0}))
    assert finding.severity is Severity.INFO
    assert finding.layers == ("act0", "act1", "act2")


def test_selu_that_leaves_later_is_a_warning_where_the_error_signal_suffers() -> None:
    mean = np.full((40, 3), 0.05)
    mean[1:] = 0.3
    run = activation_run("self_normalizing", "SELU", {"act_mean": mean, "act_var": 1.0})
    norms = np.full((40, 7), np.nan, dtype=np.float32)
    norms[:, ::2] = [1e-7, 1e-5, 0.1, 1.0]
    sick = replace(run, metrics={**run.metrics, "grad_norm": norms})
    assert codes(diagnose(sick)) == ["vanishing_gradient", "selu_drift"]
    drift = diagnose(sick)[1]
    assert drift.severity is Severity.WARNING
    assert "It left them while training, and the error signal over depth is lost or grows with it" in drift.message
    norms[:, ::2] = [0.1, 0.1, 0.1, 1.0]
    assert [f.severity for f in diagnose(replace(run, metrics={**run.metrics, "grad_norm": norms}))] == [Severity.INFO]


def test_one_selu_that_starts_just_outside_is_the_draw_of_the_weights() -> None:
    finding = only(activation_run("self_normalizing", "SELU", {"act_mean": 0.02, "act_var": [0.6, 1.0, 1.6]}))
    assert finding.severity is Severity.INFO
    assert finding.layers == ("act0", "act2")


def test_selu_on_the_bounds_is_inside() -> None:
    for mean, variance in ((0.1, 0.8), (-0.1, 1.5)):
        metrics: dict[str, npt.ArrayLike] = {"act_mean": mean, "act_var": variance}
        assert diagnose(activation_run("self_normalizing", "SELU", metrics)) == ()


def test_a_single_selu_that_starts_outside_is_not_said_to_have_left() -> None:
    variance = np.ones((40, 3), dtype=np.float32)
    variance[:, 1] = 2.5
    finding = only(activation_run("self_normalizing", "SELU", {"act_mean": 0.0, "act_var": variance}))
    assert (finding.code, finding.severity, finding.layers) == ("selu_drift", Severity.INFO, ("act1",))
    assert "variance 2.50 at step 0, outside the stated bounds" in finding.message
    assert "from the start, which the draw of its weights may do to a single layer" in finding.message
    variance[0, 1] = 1.6  # just outside, as correct weights may be
    assert (
        "It started near them and left"
        in only(activation_run("self_normalizing", "SELU", {"act_mean": 0.0, "act_var": variance})).message
    )


@pytest.mark.parametrize(
    ("setup", "severity"),
    [
        (Setup(selu_weights=(InitialWeights("fc1", 0.0, 2.0, 4096, 64),)), Severity.WARNING),
        (Setup(selu_weights=(InitialWeights("fc2", 0.0, 2.0, 4096, 64),)), Severity.INFO),
        (Setup(plain_dropouts={"drop2": 0.5}), Severity.INFO),
        (Setup(selu_weights=(InitialWeights("fc1", 0.0, 1.4, 4096, 64),)), Severity.INFO),
        (Setup(), Severity.INFO),
    ],
    ids=["weights", "weights behind it", "a dropout somewhere", "weights that are a little off", "nothing known"],
)
def test_a_single_selu_outside_is_no_draw_where_weights_in_front_of_it_are_wrong(
    setup: Setup, severity: Severity
) -> None:
    run = activation_run("self_normalizing", "SELU", {"act_mean": 0.0, "act_var": [1.0, 2.5, 1.0]})
    drift = {f.code: f for f in diagnose(replace(run, setup=setup))}["selu_drift"]
    assert (drift.severity, drift.layers) == (severity, ("act1",))
    later = np.ones((40, 3))
    later[1:, 1] = 2.5
    run = activation_run("self_normalizing", "SELU", {"act_mean": 0.0, "act_var": later})
    drift = {f.code: f for f in diagnose(replace(run, setup=setup))}["selu_drift"]
    assert drift.severity is Severity.INFO  # it began where correct weights begin


@pytest.mark.parametrize("kind", ["smooth", "rectifier", "saturating"])
def test_only_selu_promises_to_keep_its_moments(kind: str) -> None:
    assert diagnose(activation_run(kind, "Other", {"act_mean": 3.0, "act_var": 20.0})) == ()


# ------------------------------------------------------------------ numbers that are none


@pytest.mark.parametrize(
    ("flag", "order", "where"),
    [(1, ("fc3", "fc2"), "backward pass"), (4, ("fc2", "fc3"), "forward pass"), (2, ("fc2", "fc3"), "earlier step")],
)
def test_non_finite_says_where_it_was_seen_first(flag: int, order: tuple[str, ...], where: str) -> None:
    flags = np.zeros((40, 5))
    flags[20, 2:4] = flag
    flags[21:, :] = 7
    finding = only(mlp_run(1.0, metrics={"nonfinite": flags}))
    assert (finding.code, finding.severity, finding.layers) == ("non_finite", Severity.CRITICAL, order)
    assert finding.first_step == 200
    assert where in finding.message


@pytest.mark.parametrize("first", [0, 100], ids=["untrained", "from a checkpoint"])
def test_weights_that_were_never_numbers_are_not_blamed_on_a_step(first: int) -> None:
    flags = np.zeros((40, 5))
    flags[:, 2] = 2
    run = mlp_run(1.0, metrics={"nonfinite": flags})
    run = replace(run, steps=run.steps + first)
    for finding in (only(run), only(replace(run, origin=Origin(first, "fc2", "weight")))):
        assert (finding.layers, finding.first_step) == (("fc2",), first)
        assert "in a weight" in finding.message
        assert "before the first step or in it. Usual cause: an initialisation" in finding.message
        assert "its initialisation, or the checkpoint" in finding.hint


def test_a_loss_that_is_nan_alone() -> None:
    finding = only(mlp_run(1.0, globals={"nonfinite_loss": np.arange(40) == 39}))
    assert (finding.code, finding.layers, finding.first_step) == ("non_finite", (), 390)


@pytest.mark.parametrize("flag", [NONE, math.inf, -math.inf])
def test_a_flag_that_is_no_number_flags_nothing(flag: float) -> None:
    assert diagnose(mlp_run(1.0, metrics={"nonfinite": flag})) == ()


def test_a_step_that_the_scaler_skipped_is_no_fault() -> None:
    flags = np.zeros((40, 5))
    flags[20] = 1
    skipped = (np.arange(40) == 20).astype(float)
    assert diagnose(mlp_run(1.0, metrics={"nonfinite": flags}, globals={"skipped": skipped})) == ()


# ------------------------------------------------------------------ the frame


def test_findings_come_by_severity() -> None:
    run = activation_run("rectifier", "ReLU", {"dead_fraction": 0.6})
    norms = np.full((40, 7), np.nan, dtype=np.float32)
    norms[:, ::2] = [1e-7, 1e-5, 0.1, 1.0]
    sick = replace(run, metrics={**run.metrics, "grad_norm": norms})
    assert codes(diagnose(sick)) == ["vanishing_gradient", "dead_relu"]
    assert [f.severity for f in diagnose(sick)] == sorted((f.severity for f in diagnose(sick)), reverse=True)


def test_thresholds_are_those_of_the_run_or_those_given() -> None:
    run = activation_run("rectifier", "ReLU", {"dead_fraction": 0.6})
    assert diagnose(run, Thresholds(dead_fraction=0.7)) == ()
    assert diagnose(replace(run, thresholds=Thresholds(dead_fraction=0.7))) == ()
    assert diagnose(replace(run, thresholds=Thresholds(dead_fraction=0.7)), Thresholds()) != ()
