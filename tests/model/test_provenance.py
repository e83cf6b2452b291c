"""Where a NaN was born: the module, forward or backward, and the very step, recorded or not."""

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.checkpoint import checkpoint

from gradscope import GradScope, Origin, Severity
from gradscope.lightning.cadence import Cadence, Plan
from gradscope.model.autograd import operation
from gradscope.model.layers import LayerTable
from gradscope.model.outputs import OutputWatch, _largest
from gradscope.model.provenance import first_bad
from gradscope.model.trace import tensors_in
from tests.models import Batch, Batches, Classifier, mlp, trainer

BIRTH = 23
"""A step that is neither among the first nor due."""


class Function(nn.Module):
    """A module without parameters that computes `function`."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class SqrtAtZero(nn.Module):
    """Finite forward, infinite slope: of every fourth number, once an outlier comes."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x.detach().abs().amax() > 1e3, x * 0, x.abs()).sqrt()


def outlier(at: int, factor: float = 1e6, number: int = 40) -> Batches:
    batches = Batches(number=number)
    x, y = batches.batches[at]
    batches.batches[at] = (x * factor, y)
    return batches


def born(net: nn.Module, batches: Batches, **options: Any) -> tuple[Origin | None, GradScope]:
    scope = GradScope(summary=False)
    trainer(scope, **options).fit(Classifier(net, lr=1e-3), batches)
    return scope.run.origin, scope


def overflow(x: Tensor) -> Tensor:
    return x + torch.log(torch.where(x.detach().abs().amax() > 1e3, x.abs() * 0, x.abs() * 0 + 1))


@pytest.mark.parametrize("step", [0, 4, 20, BIRTH])
def test_forward_is_found_in_the_step_itself(step: int) -> None:
    net = nn.Sequential(nn.Linear(20, 16), nn.Tanhshrink(), Function(overflow), nn.Linear(16, 4))
    origin, scope = born(net, outlier(step))
    assert origin is not None
    assert (origin.step, origin.module, origin.direction) == (step, "net.2", "forward")
    (finding,) = [f for f in scope.findings if f.code == "non_finite"]
    assert finding.layers == ("net.2",)
    assert finding.first_step == step
    assert f"born at step {step} in the forward of net.2" in finding.message


@pytest.mark.parametrize(
    ("step", "expected"), [(20, (20, "net.2", "forward")), (BIRTH, (25, "net.0", "weight"))], ids=["recorded", "not"]
)
def test_where_a_budget_leaves_steps_bare_it_is_found_in_recorded_ones(
    step: int, expected: tuple[int, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cadence, "plan", lambda self: Plan(5, bare=True))
    net = nn.Sequential(nn.Linear(20, 16), nn.Tanhshrink(), Function(overflow), nn.Linear(16, 4))
    scope = GradScope(budget=0.5, summary=False)
    trainer(scope).fit(Classifier(net, lr=1e-3), outlier(step))
    origin = scope.run.origin
    assert origin is not None
    assert (origin.step, origin.module, origin.direction) == expected
    assert [f.code for f in scope.findings if f.severity is Severity.CRITICAL] == ["non_finite"]
    assert scope.run.flights == {}


def test_an_operation_between_modules_is_named_after_the_module_around_it() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Linear(20, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.as_tensor(self.leave(overflow(self.enter(x))))

    origin, _ = born(nn.Sequential(Block()), outlier(BIRTH))
    assert origin is not None
    assert (origin.step, origin.module, origin.direction, origin.operation) == (BIRTH, "net.0", "forward", "log")


def test_what_has_no_gradient_is_found_by_what_it_feeds() -> None:
    class Energy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.energy, self.body = Function(lambda x: x.square().sum(1, keepdim=True).exp()), mlp(widths=(21, 16, 4))

        def forward(self, x: Tensor) -> Tensor:
            return torch.as_tensor(self.body(torch.cat([x, self.energy(x) * 0], 1)))

    origin, _ = born(Energy(), outlier(BIRTH, 30.0))
    assert origin == Origin(BIRTH, "net.energy", "forward")


def test_what_gates_a_bad_output_of_a_frozen_part_is_not_to_blame() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gamma = nn.Parameter(torch.ones(20))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.gamma

    frozen = Function(lambda x: torch.where(x > 9, x.new_tensor(torch.inf), x).detach())
    origin, _ = born(nn.Sequential(frozen, Gate(), nn.Linear(20, 4)), outlier(BIRTH, 30.0))
    assert origin == Origin(BIRTH, "net.0", "forward")


def test_a_batch_that_holds_it_is_to_blame_itself() -> None:
    origin, scope = born(mlp(), outlier(BIRTH, np.nan))
    assert origin == Origin(BIRTH, "", "batch")
    assert "in the batch itself" in next(f.message for f in scope.findings if f.code == "non_finite")


@pytest.mark.parametrize("name", ["0.weight", "0.bias", "2.weight", "2.bias", "4.weight", "4.bias"])
def test_a_weight_that_holds_it_is_to_blame_itself(name: str) -> None:
    class Spoilt(Classifier):
        def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
            if batch_idx == BIRTH:
                with torch.no_grad():
                    self.net.get_parameter(name).view(-1)[0] = torch.nan

    scope = GradScope(summary=False)
    trainer(scope).fit(Spoilt(mlp(), lr=1e-3), Batches(number=40))
    assert scope.run.origin == Origin(BIRTH, f"net.{name[0]}", "weight")


def test_backward_is_found_in_the_step_itself() -> None:
    net = nn.Sequential(nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 16), SqrtAtZero(), nn.Linear(16, 4))
    origin, scope = born(net, outlier(BIRTH, 1e9))
    assert origin is None, "the outlier does not pass the tanh"
    net = nn.Sequential(nn.Linear(20, 16), nn.Linear(16, 16), SqrtAtZero(), nn.Linear(16, 4))
    origin, scope = born(net, outlier(BIRTH, 1e9))
    assert origin == Origin(BIRTH, "net.2", "backward")
    assert "born at step 23 in the backward of net.2" in next(f.message for f in scope.findings)


def test_a_lazy_layer_that_wakes_between_records_is_looked_at() -> None:
    class Sleeper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.lazy, self.last = nn.Linear(20, 16), nn.LazyLinear(16), nn.Linear(16, 4)
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if self.calls <= 13:
                return torch.as_tensor(self.last(self.first(x)))
            y = self.lazy(x)
            if self.calls == 16:
                y.register_hook(lambda gradient: gradient * torch.inf)
            return torch.as_tensor(self.last(self.first(x) + y))

    origin, scope = born(Sleeper(), Batches(number=30))
    assert origin is not None
    assert (origin.step, origin.module, origin.direction) == (15, "net.lazy", "backward")
    lazy = scope.run.rows("lazy")
    assert np.isnan(scope.run.metric("grad_norm")[scope.run.steps < 13][:, lazy]).all()
    assert not np.isfinite(scope.run.metric("grad_norm")[scope.run.steps == 16][:, lazy]).any()


def test_a_sound_run_has_no_origin() -> None:
    assert born(mlp(), Batches(number=40))[0] is None


def test_checkpointed_code_is_not_run_again_to_look_at_it() -> None:
    runs: list[int] = []

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(20, 16), Function(self.counted), nn.Linear(16, 4))

        def counted(self, x: Tensor) -> Tensor:
            runs.append(1)
            return overflow(x)

        def forward(self, x: Tensor) -> Tensor:
            return torch.as_tensor(checkpoint(self.inner, x, use_reentrant=False))

    origin, _ = born(Checkpointed(), outlier(BIRTH))
    assert origin is not None
    assert (origin.step, origin.direction) == (BIRTH, "forward")
    assert len(runs) == 2 * 40


def test_training_is_bitwise_the_same_through_a_nan() -> None:
    weights = []
    for callbacks in ([GradScope(summary=False)], []):
        torch.manual_seed(3)
        model = Classifier(nn.Sequential(nn.Linear(20, 16), Function(overflow), nn.Dropout(0.5), nn.Linear(16, 4)))
        trainer(*callbacks).fit(model, outlier(BIRTH))
        weights.append(model.state_dict())
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0, equal_nan=True)


def test_the_graph_tells_the_first_bad_operation() -> None:
    x = torch.tensor([1.0, 0.0, 2.0], requires_grad=True)
    suspect = first_bad((x.softmax(0) * (x * 2).log()).exp().sum())
    assert suspect is not None
    assert operation(suspect.node) == "log"
    assert first_bad(torch.tensor(1.0)) is None


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_bad_factor_without_a_gradient_is_found_where_it_comes_in(bad: float) -> None:
    """As the weights of a loss, or a mean over nothing: what it is multiplied with is sound."""
    x = torch.ones(3, requires_grad=True)
    sound = torch.nn.functional.smooth_l1_loss(x, torch.zeros(3), reduction="none")
    for spoilt, name in (
        (sound * torch.tensor([1.0, bad, 1.0]), "mul"),
        (sound / torch.tensor([1.0, bad, 1.0]), "div"),
    ):
        suspect = first_bad(spoilt.sum())
        assert suspect is not None
        assert (operation(suspect.node), suspect.before) == (name, False)


def test_a_statistic_without_a_gradient_is_not_to_blame_for_what_it_was_made_of() -> None:
    logs = torch.zeros(3, requires_grad=True).abs().log()
    suspect = first_bad((logs * logs.detach().max()).sum())
    assert suspect is not None
    assert operation(suspect.node) == "log"


def test_the_output_watch_names_modules_in_order() -> None:
    net = mlp()
    watch = OutputWatch(LayerTable(net, lambda name: True))
    packed = pack_sequence([torch.ones(3, 2), torch.ones(2, 2)])
    watch.see(net[0], {"a": (torch.ones(3), [{"b": torch.tensor([1.0, np.nan])}]), "c": 7})
    watch.see(net[1], packed)
    names, marks = watch.finish()
    assert names == ["0", "0", "1"]
    assert [mark.item() for mark in marks] == pytest.approx([0, np.nan, 0], nan_ok=True)
    assert list(tensors_in(None)) == []


def test_what_a_module_passes_on_is_marked_once_but_not_what_it_wrote_to() -> None:
    net = mlp()
    watch = OutputWatch(LayerTable(net, lambda name: True))
    x = torch.ones(3, 2)
    watch.see(net[0], x)
    watch.see(net[1], x)
    watch.see(net[1], x.flatten())
    watch.see(net[1], x.view(6))
    watch.see(net[1], x[0])
    watch.see(net[0], x)
    watch.see(net[1], x.fill_(torch.nan))
    names, marks = watch.finish()
    assert names == ["0", "1", "0", "1"]
    assert [mark.item() for mark in marks] == pytest.approx([0, 0, 0, np.nan], nan_ok=True)


def test_of_several_outputs_all_are_passed_on() -> None:
    net = mlp()
    watch = OutputWatch(LayerTable(net, lambda name: True))
    pair = torch.ones(3), torch.ones(2)
    watch.see(net[0], pair)
    watch.see(net[1], {"a": pair})
    assert watch.finish()[0] == ["0", "0"]


def test_in_inference_mode_nobody_counts_what_is_written() -> None:
    net = mlp()
    watch = OutputWatch(LayerTable(net, lambda name: True))
    with torch.inference_mode():
        x = torch.ones(3)
        watch.see(net[0], x)
        watch.see(net[1], x.fill_(torch.nan))
    names, marks = watch.finish()
    assert names == ["0", "1"]
    assert [mark.item() for mark in marks] == pytest.approx([0, np.nan], nan_ok=True)


def test_what_was_marked_last_is_not_kept_alive() -> None:
    net = mlp()
    watch = OutputWatch(LayerTable(net, lambda name: True))
    x = torch.ones(3)
    gone = weakref.ref(x)
    watch.see(net[0], x)
    del x
    assert gone() is None


def test_a_mask_that_does_no_harm_is_no_origin() -> None:
    class Mask(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            scores = x[:, :16].view(-1, 4, 4)
            masked = scores.masked_fill(torch.eye(4).bool(), torch.finfo(x.dtype).min)
            return torch.cat([masked.softmax(-1).flatten(1), x], 1)

    class Alarming(Classifier):
        def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
            loss = super().training_step(batch, batch_idx)
            assert loss is not None
            return loss * (100 if batch_idx == 7 else 1)

    scope = GradScope(summary=False)
    trainer(scope).fit(
        Alarming(nn.Sequential(nn.Linear(20, 20), Mask(), nn.Linear(36, 4)), lr=1e-6), Batches(number=14)
    )
    assert 8 in scope.run.steps, "the alarm had a step watched in full"
    assert scope.run.origin is None
    assert not [f for f in scope.findings if f.code == "non_finite"]


def test_an_output_on_another_device_switches_nothing_off() -> None:
    class Meta(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.detach().to("meta")

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.meta, self.body = Meta(), mlp()

        def forward(self, x: Tensor) -> Tensor:
            self.meta(x)
            return torch.as_tensor(self.body(x))

    origin, scope = born(Odd(), outlier(7, np.nan))
    assert origin == Origin(7, "", "batch")
    assert "GradScope" not in scope.run.coverage.unseen


def test_hooks_on_what_is_saved_are_not_run_to_look_at_it() -> None:
    unpacked: list[int] = []

    def unpack(packed: Tensor) -> Tensor:
        unpacked.append(1)
        return packed

    class Saves(Classifier):
        def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
            with torch.autograd.graph.saved_tensors_hooks(lambda t: t, unpack):
                scale = self.net.get_parameter("0.weight").sum().exp()
            loss = super().training_step(batch, batch_idx)
            assert loss is not None
            return (loss * scale * 0 - 1).log() if batch_idx == 5 else loss * scale

    counts = []
    for callbacks in ([GradScope(summary=False)], []):
        torch.manual_seed(3)
        unpacked.clear()
        trainer(*callbacks).fit(Saves(mlp(), lr=1e-4), Batches(number=8))
        counts.append(len(unpacked))
    assert counts[0] == counts[1] > 0


def test_a_large_graph_is_searched_in_linear_time() -> None:
    x = torch.ones(2, 16, requires_grad=True) * 1
    x = x + float("nan")
    for _ in range(200):
        x = torch.cat([x[:, 8:], x[:, :8]], 1)
    suspect = first_bad(x.log().sum())
    assert suspect is not None
    assert operation(suspect.node) == "add"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_largest_value_tells_of_any_that_is_not_finite(dtype: torch.dtype) -> None:
    """As outputs are looked at on an accelerator."""
    finite = torch.full((3, 40), torch.finfo(dtype).min, dtype=dtype)
    assert _largest(finite).isfinite()
    for bad in (torch.nan, torch.inf, -torch.inf):
        for place in (0, 77, 119):
            spoilt = finite.clone()
            spoilt.view(-1)[place] = bad
            assert not _largest(spoilt).isfinite()
