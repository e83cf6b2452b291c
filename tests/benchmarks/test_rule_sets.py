"""The rules of other tools at both sides of their thresholds, and the callback that tells them of a run."""

from typing import Any

import pytest
import torch
from rule_sets import RULE_SETS
from rule_sets.autotrainer import AutoTrainer
from rule_sets.folklore import Folklore
from rule_sets.sagemaker import SageMaker
from rule_sets.torchmortem import Torchmortem
from rule_sets.watch import Progress, RuleSet, Watch
from torch import Tensor, nn
from zoo import data
from zoo.case import Case
from zoo.fit import fit
from zoo.modules import Classifier, adam, mlp

NONE = torch.empty(0)
RELU, TANH, SELU = nn.ReLU(), nn.Tanh(), nn.SELU()


def progress(step: int = 0, of: int = 100, clip_value: float = 0.0, clips_norm: bool = True) -> Progress:
    return Progress(step, of, clip_value, clips_norm)


def outputs(dead: int) -> Tensor:
    """Return 200 outputs of ten units, so many of which are always zero."""
    out = torch.ones(200, 10)
    out[:, :dead] = 0
    return out


def case(net: nn.Module, steps: int = 4) -> Case:
    def loader() -> data.Loader:
        return data.loader(data.teacher_classes(64, 6, 3), batch_size=16)

    return Case("small", "", lambda: Classifier(net, adam(1e-2)), loader, steps, 1, learns_to=2.0)


@pytest.mark.parametrize(("dead", "found"), [(5, set()), (6, {("dead_relu", "act")})])
def test_sagemaker_counts_units_of_a_relu(dead: int, found: set[Any]) -> None:
    rules = SageMaker()
    rules.see_activation("act", RELU, NONE, outputs(dead))
    assert rules.found == found


@pytest.mark.parametrize(("size", "found"), [(9.4, set()), (9.6, {("saturated_activation", "act")})])
def test_sagemaker_looks_at_the_inputs_of_a_tanh(size: float, found: set[Any]) -> None:
    rules = SageMaker()
    rules.see_activation("act", TANH, torch.full((8, 4), size), torch.ones(8, 4))
    assert rules.found == found


def test_sagemaker_on_gradients_and_updates() -> None:
    rules = SageMaker()
    gradients = {"a.weight": torch.full((2,), 2e-7), "b.weight": torch.full((2,), 5e-8), "c.weight": torch.zeros(2)}
    rules.see_gradients({**gradients, "d.weight": None, "e.weight": torch.tensor([torch.nan])}, progress())
    assert rules.found == {
        ("vanishing_gradient", "b"), ("vanishing_gradient", "c"), ("no_gradient", "c"),
        ("non_finite", "e"), ("exploding_gradient", "e"),
    }  # fmt: skip
    rules.found.clear()
    for name, new in (
        ("a.weight", 10.9),
        ("b.weight", 11.1),
        ("c.weight", 1 + 1e-7),
        ("d.weight", 1.0),
        ("d.bias", 1.0),
    ):
        rules.see_update(name, torch.ones(2).double(), torch.full((2,), new).double())
    assert rules.found == {("update_ratio_high", "b"), ("update_ratio_low", "d")}


def autotrained(norms: tuple[float, float], accuracies: list[float | None], loss: float = 1.0) -> set[Any]:
    """Let AutoTrainer see a net of two matrices with these gradient norms, in a run of so many steps."""
    rules = AutoTrainer()
    for step, accuracy in enumerate(accuracies):
        first, last = (torch.tensor([[norm, 0.0], [0.0, 0.0]]) for norm in norms)
        full = {"a": first + 1e-9, "b": last + 1e-9}  # no element is exactly zero
        rules.see_gradients(full, progress(step, len(accuracies)))
        rules.end_batch(loss, accuracy, progress(step + 1, len(accuracies)))
    return {label for label, _ in rules.found}


def test_autotrainer_calls_a_symptom_a_fault_where_the_accuracy_is_poor() -> None:
    assert autotrained((1e-5, 1.0), [0.1] * 100) == {"vanishing_gradient"}
    assert autotrained((1e-5, 1.0), [0.5 + step / 200 for step in range(100)]) == {"vanishing_gradient"}  # poor at 30 %
    assert autotrained((1e-5, 1.0), [0.9 if step < 32 else 0.95 for step in range(200)]) == set()
    assert autotrained((1e-5, 1.0), [0.9] * 200) == {"vanishing_gradient"}  # stuck
    assert autotrained((1e-5, 1.0), [None] * 100) == {"vanishing_gradient"}
    assert autotrained((1e-3, 1.0), [0.1] * 100) == set()  # a small ratio, but no small norm
    assert autotrained((71.0, 1.0), [0.1] * 100) == {"exploding_gradient"}
    assert autotrained((69.0, 1.0), [0.1] * 100) == set()
    assert autotrained((1.0, 1.0), [0.9] * 100, loss=1001.0) == {"exploding_gradient"}


def test_folklore_on_activations_gradients_and_clipping() -> None:
    rules = Folklore()
    rules.see_activation("half", RELU, NONE, outputs(5))
    rules.see_activation("more", RELU, NONE, outputs(6))
    rules.see_activation("selu", SELU, NONE, torch.full((8,), 0.2))
    gradients = {"a.weight": torch.tensor([1e-6]), "b.weight": torch.tensor([101.0]), "c.weight": None}
    for clip_value in (200.0, 50.0, 50.0):
        rules.see_gradients(gradients, progress(clip_value=clip_value))
    rules.end()
    assert rules.found == {
        ("dead_relu", "more"), ("selu_drift", "selu"), ("vanishing_gradient", "a"), ("exploding_gradient", "b"),
        ("no_gradient", "c"), ("uneven_learning_speed", "a"), ("clipping_dominates", None),
    }  # fmt: skip


def test_folklore_on_a_selu_net_as_it_is_built() -> None:
    rules = Folklore()
    net = nn.Sequential(nn.Linear(100, 100), nn.SELU(), nn.Dropout(), nn.Linear(100, 100))
    nn.init.normal_(net.get_parameter("0.weight"), std=0.1)
    nn.init.normal_(net.get_parameter("3.weight"), std=0.05)
    rules.begin(net)
    assert rules.found == {("selu_misconfigured", "2"), ("selu_misconfigured", "3")}


def judged_after_the_run(signals: tuple[float, float, float], zeros: int = 0, size: float = 1.001) -> set[Any]:
    """Let torchmortem see ten steps of three layers: the gradients at their outputs, a ReLU, the size of a weight."""
    rules = Torchmortem()
    rules.begin(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.Linear(2, 2)))
    for _ in range(10):
        for name, signal in zip(("0", "2", "3"), signals, strict=True):
            rules.see_signal(name, torch.tensor([signal]))
        rules.see_activation("1", RELU, NONE, 0.5 * outputs(zeros))
        rules.see_update("0.weight", torch.ones(4).double(), torch.full((4,), size).double())
        rules.end_batch(1.0, None, progress())
    assert not rules.found
    rules.end()
    return rules.found


def test_torchmortem_judges_when_the_run_is_over() -> None:
    layers = ("0", "2", "3")
    assert judged_after_the_run((1.0, 1.0, 99.0)) == set()
    assert judged_after_the_run((1.0, 1.0, 101.0)) == {("vanishing_gradient", layer) for layer in layers}
    assert judged_after_the_run((1001.0, 1.0, 999.0)) == {("exploding_gradient", "0")}
    assert judged_after_the_run((1.0, 0.0, 1.0)) == {("no_gradient", "2")}
    assert judged_after_the_run((1.0, 1e-9, 1.0)) == {("vanishing_gradient", "2")}
    assert judged_after_the_run((1.0, 1.0, 1.0), zeros=5) == set()
    assert judged_after_the_run((1.0, 1.0, 1.0), zeros=6) == {("dead_relu", "1")}
    assert judged_after_the_run((1.0, 1.0, 1.0), size=1.2) == {("update_ratio_high", "0")}
    assert judged_after_the_run((1.0, 1.0, 1.0), size=1.000001) == {("update_ratio_low", "0")}


class Told(RuleSet):
    """Keeps all that it is told."""

    activations = (nn.ReLU,)
    layers = True
    accuracy = True

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, Any]] = []

    def see_activation(self, name: str, module: nn.Module, before: Tensor, after: Tensor) -> None:
        assert torch.equal(after, before.clamp_min(0))
        assert (before < 0).any()
        self.calls.append(("activation", name))

    def see_output(self, name: str, output: Tensor) -> None:
        self.calls.append(("output", name))

    def see_signal(self, name: str, gradient: Tensor) -> None:
        self.calls.append(("signal", name))

    def see_gradients(self, gradients: Any, progress: Progress) -> None:
        self.calls.append(("gradients", progress.step))

    def see_update(self, name: str, old: Tensor, new: Tensor) -> None:
        assert not torch.equal(old, new)
        self.calls.append(("update", name))

    def end_batch(self, loss: float | None, accuracy: float | None, progress: Progress) -> None:
        assert loss is not None
        assert accuracy is not None
        self.calls.append(("end", progress.step))
        if progress.step == 2:
            self.say("dead_relu", "act")


def test_a_rule_set_is_told_of_each_step_in_its_order_even_of_an_activation_in_place() -> None:
    told = Told()
    watch = Watch([told])
    net = mlp([6, 5, 3], lambda: nn.ReLU(inplace=True))
    assert fit(case(net), [watch]).error is None
    updates = [("update", f"net.{name}") for name in ("fc1.weight", "fc1.bias", "head.weight", "head.bias")]
    for step in range(4):
        assert told.calls[11 * step : 11 * step + 11] == [
            ("output", "net.fc1"), ("activation", "net.act1"), ("output", "net.head"), ("signal", "net.head"),
            ("signal", "net.fc1"), ("gradients", step), *updates, ("end", step + 1),
        ]  # fmt: skip
    assert watch.verdicts() == [{("dead_relu", "act")}]
    dead = frozenset({"dead_relu"})
    assert watch.history == [[(0, frozenset()), (1, dead), (2, dead), (3, dead), (3, dead)]]


def test_training_is_the_same_under_all_rule_sets() -> None:
    def weights(*callbacks: Watch) -> dict[str, Tensor]:
        torch.manual_seed(0)
        net = mlp([6, 16, 16, 3], nn.ReLU, dropout=lambda: nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(16)))
        return fit(case(net), list(callbacks)).module.state_dict()

    bare, watched = weights(), weights(Watch([make() for make in RULE_SETS.values()]))
    assert all(torch.equal(bare[name], watched[name]) for name in bare)
