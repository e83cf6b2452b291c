"""The oracle that measures whether labels are true."""

import math
from dataclasses import replace
from typing import Any

import labels as program
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import data
from zoo.activations import ActivationFacts, ActivationTap, UnitCounter
from zoo.case import Case, Cure, labels
from zoo.evidence import line
from zoo.facts import Facts
from zoo.modules import Classifier, ZooModule, mlp, sgd
from zoo.oracle import examine
from zoo.truth import TRUTH, Answer

YES, NO, GREY = Answer


def net_with_dead_units(number: int) -> ZooModule:
    net = mlp([8, 16, 16, 3], nn.ReLU)
    with torch.no_grad():
        net.get_parameter("fc2.bias")[:number] = -30.0
    return Classifier(net, sgd(0.3))


DEAD = Case(
    name="dead",
    why="three in four units of the second layer cannot fire",
    make_module=lambda: net_with_dead_units(12),
    make_loader=lambda: data.loader(data.teacher_classes(512, 8, 3), batch_size=32),
    steps=80,
    seed=3,
    labels=labels("dead_relu"),
    guilty={"dead_relu": (("net.fc2", "net.act2"),)},
    cure=Cure("no bias", make_module=lambda: net_with_dead_units(0)),
)


def facts(**measured: Any) -> Facts:
    """Return the facts of a run whose loss fell from 2 to 1."""
    return Facts(**{"name": "", "seconds": 0.0, "steps_done": 100, "loss_start": 2.0, "loss_end": 1.0,
                    "accuracy_end": None, "error": None, **measured})  # fmt: skip


CURED = facts(loss_end=0.0)
"""Its loss falls from 2 to 0: a run that ends at 1 is harmed, one that ends at 0.7 is not."""


def test_a_true_label_is_confirmed_and_a_wrong_one_named() -> None:
    measured = examine(DEAD)
    assert measured.wrong == []
    assert measured.verdicts["dead_relu"] == (YES, ["net.act2#1"])
    assert measured.facts.activations[-1]["net.act2#1"].dead_share == 0.75
    assert "dead_relu: dead over the whole training set: 75% of net.act2#1 |" in line(measured)


def test_labels_that_are_wrong_are_named() -> None:
    short = replace(DEAD, steps=4)
    cure = Cure("nothing", make_module=DEAD.make_module)
    blamed = examine(replace(short, cure=cure, guilty={"dead_relu": (("net.fc1",),)}))
    assert "dead_relu: ('net.fc1',) is written guilty but not measured so" in blamed.wrong
    assert "dead_relu: net.act2#1 is measured guilty but not written" in blamed.wrong
    sound = replace(short, labels=frozenset(), guilty={}, cure=None, learns_to=1e-3)
    assert [w.split(" of")[0] for w in examine(sound).wrong][:1] == [
        "dead_relu is measured yes ['net.act2#1'] but not written"
    ]
    assert examine(sound).wrong[-1].endswith("above 0.001")


def test_the_program_checks_the_labels_of_the_cases_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = replace(DEAD, name="wrong", steps=4, labels=frozenset(), guilty={}, cure=None, learns_to=2.0)
    monkeypatch.setattr("zoo.cases.CASES", (DEAD, sound))
    assert program.main(["--cases", "wro"]) == 1
    printed = capsys.readouterr().out
    assert printed.startswith("BAD  wrong: loss ")
    assert "yes  dead_relu ['net.act2#1']" in printed
    assert "!! dead_relu is measured yes ['net.act2#1'] but not written" in printed
    assert printed.endswith("1 case(s) disagree with the measurement\n")
    with pytest.raises(SystemExit):
        program.main(["--cases", "flu"])
    assert "got flu" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("label", "measured", "answer", "layers"),
    [
        ("vanishing_gradient", {"signal": [{"a": 9e-4, "b": 1.0}] * 4}, YES, ["a"]),
        ("vanishing_gradient", {"signal": [{"a": 9e-4, "b": 1.0}] * 2 + [{"a": 2e-3, "b": 1.0}]}, GREY, []),
        ("vanishing_gradient", {"signal": [{"a": 0.0, "b": 1.0}] * 4}, GREY, []),
        ("vanishing_gradient", {"signal": [{"a": 0.02, "b": 1.0}] * 4}, NO, []),
        ("exploding_gradient", {"signal": [{"a": 1001.0, "b": 1.0}]}, YES, ["a"]),
        ("exploding_gradient", {"early_total_grad": 1.0, "max_total_grad": 1001.0}, YES, []),
        ("exploding_gradient", {"early_total_grad": 1.0, "max_total_grad": 101.0}, GREY, []),
        ("exploding_gradient", {"early_total_grad": 1.0, "max_total_grad": 99.0}, NO, []),
        ("uneven_learning_speed", {"median_update_ratio": {"a": 1e-6, "b": 1e-3}}, YES, ["a"]),
        ("uneven_learning_speed", {"median_update_ratio": {"a": 2e-5, "b": 1e-3}}, NO, []),
        ("uneven_learning_speed", {"median_update_ratio": {"a": 2e-6, "b": 1e-3}}, GREY, []),
        ("no_gradient", {"never_any_gradient": ["a"]}, YES, ["a"]),
        ("no_gradient", {"max_update_ratio": {"a": 0.0, "b": 0.1}}, GREY, ["a"]),
        ("non_finite", {"non_finite_step": 7, "non_finite_from": "a"}, YES, ["a"]),
        ("non_finite", {}, NO, []),
        ("update_ratio_high", {"high_update_streak": {"a": 5}}, YES, ["a"]),
        ("update_ratio_high", {"high_update_streak": {"a": 3}}, GREY, []),
        ("update_ratio_high", {"high_update_streak": {"a": 2}}, NO, []),
        ("update_ratio_low", {"median_update_ratio": {"a": 1e-6}}, YES, ["a"]),
        ("update_ratio_low", {"median_update_ratio": {"a": 2e-5}}, NO, []),
        ("selu_misconfigured", {"selu_weight_gain": {"a": 0.79, "b": 1.0, "c": 1.26}}, YES, ["a", "c"]),
        ("selu_misconfigured", {"selu_plain_dropout": ["d"]}, YES, ["d"]),
        ("clipping_dominates", {"clipped_share": 0.9, "median_clip_coefficient": 0.2}, YES, []),
        ("clipping_dominates", {"clipped_share": 0.9, "median_clip_coefficient": 0.3}, GREY, []),
        ("clipping_dominates", {"clipped_share": 0.3, "median_clip_coefficient": 0.1}, NO, []),
    ],
)  # fmt: skip
def test_rules_at_both_sides_of_their_marks(
    label: str, measured: dict[str, Any], answer: Answer, layers: list[str]
) -> None:
    assert TRUTH[label](facts(**measured), CURED) == (answer, layers)


@pytest.mark.parametrize(
    ("label", "kind", "number", "values", "answer"),
    [
        ("dead_relu", "relu", "dead_share", [0.0, 0.4], YES),
        ("dead_relu", "relu", "dead_share", [0.9, 0.2], GREY),
        ("dead_relu", "relu", "dead_share", [0.0, 0.1], NO),
        ("saturated_activation", "tanh", "flat_share", [0.5, 0.5, 0.0], YES),
        ("saturated_activation", "tanh", "flat_share", [0.5, 0.3, 0.0], GREY),
        ("saturated_activation", "relu", "flat_share", [1.0], NO),
        ("selu_drift", "selu", "mean", [0.11, -0.2], YES),
        ("selu_drift", "selu", "mean", [0.11, 0.1], GREY),
        ("selu_drift", "selu", "mean", [0.1, -0.1], NO),
    ],
)
def test_rules_of_activations(label: str, kind: str, number: str, values: list[float], answer: Answer) -> None:
    def snapshot(value: float) -> dict[str, ActivationFacts]:
        measured: dict[str, Any] = {"units": 8, "variance": 1.0, number: value}
        return {"act#1": ActivationFacts(kind, **measured)}

    said = TRUTH[label](facts(activations=[snapshot(value) for value in values]), CURED)
    assert said == (answer, ["act#1"] if answer is YES else [])


def test_harm_is_measured_on_the_cured_twin() -> None:
    rule = TRUTH["update_ratio_high"]
    assert rule(facts(high_update_streak={"a": 5}, loss_end=0.7), CURED).answer is GREY
    assert rule(facts(high_update_streak={"a": 5}, loss_end=math.nan), CURED).answer is YES
    assert rule(facts(high_update_streak={"a": 5}, reached_target=True), None).answer is NO


def test_units_are_counted_over_batches() -> None:
    counter = UnitCounter("tanh")
    outputs = torch.tensor([[0.0, 0.5, 0.999], [0.0, -0.5, 0.0]])
    counter.add(outputs[:1])
    counter.add(outputs[1:])
    counter.add(torch.ones(1, 7))  # of another width: left out
    measured = counter.facts()
    assert (measured.units, measured.zero_share, measured.dead_share, measured.flat_share) == (3, 3 / 6, 1 / 3, 1 / 6)
    assert measured.mean == pytest.approx(outputs.mean().item())
    assert measured.variance == pytest.approx(outputs.var(correction=0).item())
    images = UnitCounter("relu")
    images.add(torch.zeros(2, 5, 3, 3))
    assert (images.facts().units, images.facts().dead_share) == (5, 1.0)


def test_the_tap_names_calls_by_the_module_around_them() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.SELU()

        def forward(self, x: Tensor) -> Any:
            return torch.tanh(F.relu(self.act(x))).sigmoid()

    net = nn.Sequential(Block(), nn.Tanh())
    seen: list[tuple[str, str]] = []
    tap = ActivationTap(net, lambda name, kind, out: seen.append((name, kind)))
    with tap:
        net(torch.ones(2, 2))
    assert seen == [("0.act#1", "selu"), ("0#1", "relu"), ("0#2", "tanh"), ("0#3", "sigmoid"), ("1#1", "tanh")]
    tap.close()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
