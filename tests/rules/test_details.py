"""Single words and numbers of findings that the runs of `sick_runs` do not tell apart."""

import math
from dataclasses import replace

import numpy as np
import pytest

from gradscope import Finding, Layer, Run, diagnose
from gradscope.records import Coverage, Origin, RankOutlier
from gradscope.rules.prescriptions import learning_rate_factor, two_digits
from gradscope.rules.progress import progress
from gradscope.rules.signal import relative_signal
from tests.hand_written_runs import run_of
from tests.rules.sick_runs import on, sick, sick_runs, stack


def only(run: Run) -> Finding:
    (finding,) = diagnose(run)
    return finding


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.01, "0.01"), (0.0099, "9.9e-03"), (99.0, "99"), (100.4, "100"), (9999.0, "9999"), (10_000.0, "1.0e+04")],
)
def test_two_digits_are_written_as_in_code(value: float, text: str) -> None:
    assert two_digits(value) == text


@pytest.mark.parametrize(
    ("ratio", "factor"),
    [
        (1e-3, "1"),
        (1.2e-4, "10"),
        (1e-7, "10,000"),
        (1e-8, "1e5"),
        (1e-2, "1e-1"),
        (0.0, "10"),
        (math.nan, "10"),
        (math.inf, "10"),
    ],
)
def test_the_learning_rate_is_to_be_changed_by_a_power_of_ten(ratio: float, factor: str) -> None:
    assert learning_rate_factor(ratio) == factor


def test_an_operation_that_is_not_known_is_not_named() -> None:
    run = replace(sick_runs()["a NaN that was traced"], origin=Origin(85, "act1", "forward"))
    assert "operation" not in only(run).message.split(".")[0]


def test_of_two_ranks_that_stand_out_the_one_further_off_is_told_of() -> None:
    run = replace(
        sick_runs()["a rank whose units are dead"],
        coverage=Coverage(measured={"ranks": 8}),
        rank_outliers=(
            RankOutlier(2, "act1", "act_mean", 0.5, 0.3, 90, 390),
            RankOutlier(5, "act1", "act_mean", 2.9, 0.3, 90, 390),
        ),
    )
    assert only(run).evidence["rank"] == 5


def test_a_recurrent_matrix_is_to_be_drawn_orthogonal() -> None:
    layers = [Layer("rnn", "RNN", "recurrent"), *stack("ReLU", "rectifier")[1:]]
    run = sick(layers, {"grad_norm": on([1e6, 1e4, 10.0, 1.0])}, total_norm=1e6)
    assert only(run).hint.startswith("Initialise the recurrent matrix of rnn with torch.nn.init.orthogonal_")


def test_the_signal_is_the_gradient_over_what_a_layer_is_given() -> None:
    """√((1 + mean² + variance) / 2), for an input of 1 counts as 1."""
    measured = {"grad_norm": on(1.0), "act_mean": on(math.nan, [3.0, 0, 1]), "act_var": on(math.nan, [4.0, 1, 0])}
    signal = relative_signal(sick(stack("ReLU", "rectifier"), measured))
    assert signal[0, ::2] == pytest.approx([1, 1 / math.sqrt(7), 1, 1])
    assert np.isnan(signal[:, 1::2]).all()


def test_a_loss_that_is_missing_stays_what_it_was() -> None:
    nan = math.nan
    loss = np.array([nan, 2.0, 2.0, 2.0, nan, 2.0, 1.0, nan, nan, nan, nan])
    run = run_of("gaps", (), {}, records=len(loss), globals={"loss": loss})
    assert progress(run).share.tolist() == [1, 1, 1, 1, 1, 1, 1, 1, 0.5, 0.5, 0.5]
