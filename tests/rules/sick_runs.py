"""One hand-written run for each finding, as clear as they come: what the messages are pinned on."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from gradscope import Flight, Layer, Run
from gradscope.records import (
    Coverage,
    InitialWeights,
    InputMoments,
    Origin,
    OutputActivation,
    RankOutlier,
    SaturatingStack,
    Setup,
)
from gradscope.selection import with_records
from tests.hand_written_runs import run_of

STUCK = np.full(40, 2.3)
NOTHING_KNOWN = Setup()


def stack(activation: str, kind: str) -> list[Layer]:
    """Three linear layers, each with an activation, and a head."""
    layers: list[Layer] = []
    for i in range(3):
        layers += [Layer(f"fc{i}", "Linear", "linear"), Layer(f"act{i}", activation, kind)]
    return [*layers, Layer("head", "Linear", "linear")]


def on(weights: npt.ArrayLike, activations: npt.ArrayLike = math.nan) -> npt.NDArray[np.float32]:
    """One row of values: `weights` for the linear layers, `activations` for what stands between them."""
    row = np.full(7, np.nan, dtype=np.float32)
    row[::2], row[1::2] = weights, activations
    return row


def sick(
    layers: list[Layer], metrics: Mapping[str, npt.ArrayLike], setup: Setup = NOTHING_KNOWN, **series: npt.ArrayLike
) -> Run:
    totals = {
        name: np.broadcast_to(np.asarray(x, dtype=np.float64), 40) for name, x in {"loss": STUCK, **series}.items()
    }
    return run_of(
        "sick",
        layers,
        {"grad_norm": on(1.0), "weight_norm": on(5.0), **metrics},
        globals=totals,
        setup=setup or Setup(),
    )


def of_ranks(*outliers: RankOutlier, ranks: int = 8) -> Run:
    """A run that is sound, but for what one rank or another sees."""
    measured = {"dead_fraction": on(math.nan, 0.1), "act_mean": on(math.nan, 0.3), "act_var": on(math.nan, 1.0)}
    run = sick(stack("ReLU", "rectifier"), measured, loss=np.linspace(2.3, 0.1, 40))
    return replace(run, rank_outliers=outliers, coverage=Coverage(measured={"ranks": ranks}))


def sick_runs() -> dict[str, Run]:
    """Return the runs, by what is wrong with them."""
    relu, sigmoid = stack("ReLU", "rectifier"), stack("Sigmoid", "saturating")
    selu, tanh = stack("SELU", "self_normalizing"), stack("Tanh", "saturating")
    drifting = {"act_mean": on(math.nan, 0.3), "act_var": on(math.nan, 2.5)}
    later = {
        name: np.where(np.arange(40)[:, None] < 1, on(math.nan, 1.0 if "v" in name else 0.0), row)
        for name, row in drifting.items()
    }
    spike = np.where(np.arange(40) < 30, 2.0, 5e3)
    dies = np.where(np.arange(40) < 2, 1e6, math.nan)
    worse = np.where(np.arange(40) < 2, 2.3, 50.0)
    nan = {"loss": dies, "total_norm": dies, "nonfinite_loss": np.isnan(dies)}
    for_relu = InitialWeights("fc1", 0.01, 2.0, 4096, 64)
    born = sick(relu, {}, loss=np.where(np.arange(40) < 9, 2.3, math.nan), nonfinite_loss=np.arange(40) >= 9)
    return {
        "sigmoids that lose the gradient": sick(sigmoid, {"grad_norm": on([1e-7, 1e-5, 1e-2, 1.0])}),
        "ReLUs that lose the gradient": sick(relu, {"grad_norm": on([1e-7, 1e-5, 1e-2, 1.0])}),
        "a gradient that grows over depth": sick(relu, {"grad_norm": on([1e6, 1e4, 10.0, 1.0])}, total_norm=1e6),
        "a gradient that grows over training": sick(relu, {}, total_norm=spike),
        "a gradient that ends the run": sick(relu, {}, NOTHING_KNOWN, **nan),
        "dead ReLUs": sick(relu, {"dead_fraction": on(math.nan, [0.5, 0.1, 0.95])}),
        "saturated tanhs": sick(tanh, {"saturated_fraction": on(math.nan, [0.9, 0.6, 0.1])}),
        "SELUs outside from the start": sick(selu, drifting),
        "SELUs that left later": sick(selu, later),
        "a layer without a gradient": sick(relu, {"no_gradient_fraction": on([0, 1, 0, 0])}),
        "a NaN that was traced": Run(**{**vars(born), "origin": Origin(85, "act1", "forward", "LogBackward0")}),
        "a NaN that was seen": born,
        "steps that are too large": sick(relu, {"update_ratio": on([0.4, 0.2, 0.05, 0.01])}, loss=worse),
        "steps that are too small": sick(relu, {"update_ratio": on(1e-8)}),
        "layers of different pace": sick(relu, {"update_ratio": on([1e-7, 1e-3, 1e-3, 1e-2])}),
        "SELUs that are set up like ReLUs": sick(selu, {}, Setup(selu_weights=(for_relu,))),
        "clipping at every step": sick(relu, {}, total_norm=5.0, total_norm_clipped=0.05, clip_coefficient=0.01),
        "a rank whose units are dead": of_ranks(RankOutlier(3, "act1", "dead_fraction", 0.4, 0.02, 90, 390)),
        "two ranks of two that differ": of_ranks(
            RankOutlier(0, "act1", "act_mean", 0.19, 2.9, 90, 390),
            RankOutlier(1, "act1", "act_mean", 2.9, 0.19, 90, 390),
            RankOutlier(1, "act2", "act_var", 9.1, 0.8, 60, 390),
            ranks=2,
        ),
    }


def otherwise_sick_runs() -> dict[str, Run]:
    """Return runs with findings of the same codes in other words, by what is wrong with them."""
    relu, tanh, selu = stack("ReLU", "rectifier"), stack("Tanh", "saturating"), stack("SELU", "self_normalizing")
    recurrent = [Layer("rnn", "RNN", "recurrent"), *relu[1:]]
    lost, late = on([1e-7, 1e-5, 1e-2, 1.0]), np.arange(40)[:, None] >= 10
    dies = np.where(np.arange(40) < 39, 2.3, math.nan)
    drifting = {
        "act_mean": np.where(late, on(math.nan, 0.3), on(math.nan, 0.0)),
        "act_var": np.where(late, on(math.nan, 2.5), on(math.nan, 1.0)),
    }
    flight_norms = np.ones((50, 2), dtype=np.float32)
    flight_norms[:3] = 0
    flight_norms[47:, 1] = [1e3, 1e5, math.inf]
    flight = Flight(np.arange(341, 391), np.full(50, 2.0), ("fc0", "fc1"), flight_norms)
    runs = {
        "Tanhs that lose the gradient": sick(tanh, {"grad_norm": lost}),
        "a gradient that is lost later": sick(relu, {"grad_norm": np.where(late, lost, on(1.0))}),
        "a recurrent gradient that grows": sick(recurrent, {"grad_norm": on([1e6, 1e4, 10.0, 1.0])}),
        "a gradient that grows between two records": replace(
            sick(relu, {}, loss=dies, nonfinite_loss=np.isnan(dies)), flights={"non_finite": flight}
        ),
        "a start that a net survives": sick(relu, {}, total_norm=np.where(np.arange(40) < 1, 1e6, 10), loss=5e4),
        "layers without a gradient": sick(relu, {"no_gradient_fraction": on(1.0)}),
        "a SELU that left": sick(
            selu,
            {
                "act_mean": np.where(late, on(math.nan, [0.0, 0.3, 0.0]), on(math.nan, 0.0)),
                "act_var": on(math.nan, 1.0),
            },
        ),
        "SELUs that left with the gradient": sick(selu, {**drifting, "grad_norm": lost}),
        "weights that round steps away": sick(relu, {"update_ratio": on(0.0)}),
        "clipping to nothing": sick(relu, {}, total_norm=5.0, total_norm_clipped=0.0, clip_coefficient=0.0),
        "ranks that stand out": of_ranks(
            RankOutlier(2, "act0", "act_mean", 0.19, 2.9, 90, 380),
            RankOutlier(3, "act2", "dead_fraction", 0.4, 0.02, 70, 390),
            RankOutlier(3, "act1", "dead_fraction", 0.9, 0.02, 80, 390),
            RankOutlier(5, "act0", "act_mean", 2.9, 0.19, 90, 370),
        ),
    }
    return {**runs, **runs_with_nan(relu), **unsound_setups(relu)}


def runs_with_nan(layers: list[Layer]) -> dict[str, Run]:
    runs = {}
    for flag, what in ((1, "a gradient"), (2, "a weight"), (4, "an output")):
        flags = np.zeros((40, 7))
        flags[20, 2:5:2] = flag
        flags[21:] = 7
        lost = np.arange(40) >= 20 + (flag == 1)
        runs[f"a NaN that was seen in {what}"] = sick(layers, {"nonfinite": flags}, nonfinite_loss=lost)
    origins = {
        "in a backward": Origin(85, "act1", "backward", "SqrtBackward0"),
        "in a weight": Origin(85, "fc1", "weight", rank=3),
        "in a batch": Origin(85, "", "batch"),
        "outside of any module": Origin(85, "", "elsewhere"),
    }
    for where, origin in origins.items():
        runs[f"a NaN that was born {where}"] = replace(sick(layers, {}), origin=origin)
    return runs


def unsound_setups(layers: list[Layer]) -> dict[str, Run]:
    setups = {
        "SELUs of torch's own weights": Setup(
            selu_weights=(InitialWeights("fc0", 0.0, 0.5, 4096, 64), InitialWeights("fc1", 0.0, 1 / 3, 4096, 64))
        ),
        "a SELU of small weights": Setup(selu_weights=(InitialWeights("fc0", 0.0, 0.5, 4096, 64),)),
        "SELUs of weights that are not centred": Setup(
            selu_weights=(
                InitialWeights("fc0", 0.9, 1.0, 4096, 64),
                InitialWeights("fc1", -1.5, 1.0, 4096, 64),
                InitialWeights("fc2", 1.2, 1.0, 4096, 64),
            )
        ),
        "SELUs before plain Dropouts": Setup(plain_dropouts={"drop0": 0.2, "drop1": 0.5, "drop2": 1.0}),
        "SELUs of raw inputs": Setup(selu_input=InputMoments("fc0", 33.3, 6170.0)),
        "SELUs behind batch normalization": Setup(normalized_selus=("act0", "act1")),
        "bounded activations in a row": Setup(saturating_stack=SaturatingStack(("act0", "act1", "act2"), 2e-4)),
        "logits out of a ReLU": Setup(output_activation=OutputActivation("last", "ReLU", 10)),
        "logits out of a softmax": Setup(output_activation=OutputActivation("last", "Softmax", 10)),
        "logits out of a tanh": Setup(output_activation=OutputActivation("last", "Tanh", 10)),
        "logits out of a sigmoid": Setup(output_activation=OutputActivation("last", "Sigmoid")),
        "layers in no optimizer": Setup(in_no_optimizer=("fc0", "fc1", "fc2", "head")),
    }
    runs = {what: sick(layers, {}, setup) for what, setup in setups.items()}
    idle = {"no_gradient_fraction": on([1.0, 0.0, 1.0, 0.0]), "grad_norm": on([math.nan, 1.0, math.nan, 1.0])}
    uncalled = sick(layers, idle, Setup(never_called=("fc0", "fc2")))
    # Three records are too few for the rule that judges by gradients alone.
    runs["layers that are not called"] = with_records(uncalled, np.arange(3))
    return runs
