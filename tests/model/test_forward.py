"""What is heard of a forward: modules, activations called as functions, and what must not be touched."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gradscope import GradScope
from gradscope.model.forward import DISCOVERY, FUNCTIONS, ForwardWatch
from tests.models import Batch, Batches, Classifier, mlp, trainer


class Block(nn.Module):
    """A layer and an activation called as a function."""

    def __init__(self, activation: Callable[[Tensor], Tensor], width: int = 16) -> None:
        super().__init__()
        self.linear = nn.Linear(20, width)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.linear(x))


def recorded(net: nn.Module, number: int = 4, scope: GradScope | None = None, model: Any = Classifier) -> GradScope:
    scope = scope or GradScope(every_n_steps=1, summary=False)
    trainer(scope).fit(model(net), Batches(number=number))
    return scope


def names(scope: GradScope) -> list[str]:
    return [layer.name for layer in scope.run.layers]


SPELLINGS: list[tuple[str, str, Callable[[Tensor], Tensor]]] = [
    ("relu", "rectifier", F.relu),
    ("relu", "rectifier", torch.relu),
    ("relu", "rectifier", Tensor.relu),
    ("relu", "rectifier", lambda x: F.relu(x, inplace=True)),
    ("relu", "rectifier", torch.relu_),
    ("relu6", "rectifier", F.relu6),
    ("sigmoid", "saturating", torch.sigmoid),
    ("sigmoid", "saturating", Tensor.sigmoid),
    ("tanh", "saturating", F.tanh),
    ("hardtanh", "saturating", F.hardtanh),
    ("hardtanh", "rectifier", lambda x: F.hardtanh(x, 0.0, 6.0)),
    ("hardtanh", "rectifier", lambda x: F.hardtanh(x, min_val=0.0)),
    ("selu", "self_normalizing", F.selu),
    ("gelu", "smooth", lambda x: F.gelu(x, approximate="tanh")),
    ("leaky_relu", "smooth", lambda x: F.leaky_relu(x, 0.2)),
    ("elu", "smooth", F.elu),
    ("silu", "smooth", F.silu),
    ("softplus", "smooth", F.softplus),
    ("logsigmoid", "smooth", F.logsigmoid),
]


@pytest.mark.parametrize(("name", "kind", "function"), SPELLINGS)
def test_a_function_is_measured_like_a_module(name: str, kind: str, function: Callable[[Tensor], Tensor]) -> None:
    seen: list[Tensor] = []

    def kept(x: Tensor) -> Tensor:
        output = function(x)
        seen.append(output.detach().double().clone())
        return output

    scope = recorded(nn.Sequential(Block(kept), nn.Linear(16, 4)))
    assert names(scope) == ["net.0.linear", f"net.0.{name}", "net.1"]
    layer = scope.run.layers[1]
    assert (layer.type, layer.kind) == (name, kind)
    assert scope.run.metric("act_mean")[:, 1] == pytest.approx([x.mean().item() for x in seen], rel=1e-5)
    assert scope.run.metric("act_var")[:, 1] == pytest.approx([x.var(correction=0).item() for x in seen], rel=1e-5)
    assert np.isfinite(scope.run.metric("dead_fraction")[:, 1]).all() == (kind == "rectifier")
    assert scope.run.coverage.unseen == {}
    assert scope.run.coverage.measured == {
        "layers with parameters": 2,
        "activation modules": 0,
        "activation functions": 1,
    }


def test_functions_are_seen_in_every_record_and_counted_by_call() -> None:
    scope = recorded(nn.Sequential(Block(lambda x: F.relu(F.relu(x - 1) + torch.tanh(x))), nn.Linear(16, 4)), 30)
    assert names(scope)[1:4] == ["net.0.relu", "net.0.tanh", "net.0.relu#2"]
    assert np.isfinite(scope.run.metric("act_mean")[:, 1:4]).all()


def test_a_module_that_is_an_activation_is_not_counted_twice() -> None:
    scope = recorded(mlp(nn.ReLU), 20)
    assert names(scope) == [f"net.{i}" for i in range(5)]
    assert scope.run.coverage.measured["activation functions"] == 0


def test_functions_obey_the_patterns() -> None:
    net = nn.Sequential(Block(F.relu), nn.Linear(16, 4))
    assert names(recorded(net, scope=GradScope(summary=False, layers=["*.relu"]))) == ["net.0.relu"]
    assert names(recorded(net, scope=GradScope(summary=False, layers=["!*.relu"]))) == ["net.0.linear", "net.1"]
    without = recorded(mlp(), scope=GradScope(summary=False, layers=["!net.1"]))
    assert names(without) == ["net.0", "net.2", "net.3", "net.4"]


def test_a_name_that_a_module_has_already_is_told_apart() -> None:
    block = Block(F.relu)
    block.add_module("relu", nn.ReLU())
    scope = recorded(nn.Sequential(block, nn.Linear(16, 4)))
    assert "net.0.relu()" in names(scope)


def test_a_function_outside_of_any_forward_is_said_and_not_measured() -> None:
    class Hinge(Classifier):
        def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
            return F.relu(1 - self.net(batch[0])).mean()

    scope = recorded(mlp(), model=Hinge)
    assert names(scope) == [f"net.{i}" for i in range(5)]
    assert scope.run.coverage.unseen == {"relu()": "called outside of the forward of any module of the model"}


def test_an_exception_within_a_forward_does_not_misplace_what_follows() -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("the user's own")

    class Tries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fails, self.block, self.head = Fails(), Block(F.relu), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            try:
                self.fails(x)
            except ValueError:
                x = F.tanh(x)
            return torch.as_tensor(self.head(self.block(x)))

    # Until the module around it ends, what follows is named after the one that was given up.
    scope = recorded(Tries())
    assert "net.block.relu" in names(scope)
    assert np.isfinite(scope.run.metric("act_mean")[:, names(scope).index("net.block.relu")]).all()


def test_modes_of_the_user_are_left_in_place() -> None:
    class Counts(TorchFunctionMode):
        calls = 0

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            Counts.calls += 1
            return func(*args, **(kwargs or {}))

    class ByHand(Classifier):
        def __init__(self, net: nn.Module) -> None:
            super().__init__(net)
            self.automatic_optimization = False

        def training_step(self, batch: Batch, batch_idx: int) -> None:
            optimizer: Any = self.optimizers()
            with Counts():
                loss = F.cross_entropy(self.net(batch[0]), batch[1])
                optimizer.zero_grad()
                self.manual_backward(loss)  # GradScope stops to listen here, beneath the user's mode
                before = Counts.calls
                torch.ones(1) + 1
                assert Counts.calls > before
            optimizer.step()

    scope = recorded(nn.Sequential(Block(F.relu), nn.Linear(16, 4)), model=ByHand)
    assert Counts.calls > 0
    assert "net.0.relu" in names(scope)
    assert torch.overrides._get_current_function_mode() is None  # type: ignore[no-untyped-call]


def test_a_transformer_layer_in_evaluation_mode_is_left_to_its_fast_path() -> None:
    encoder = nn.TransformerEncoderLayer(20, 2, 16, batch_first=True)
    net = nn.Sequential(nn.Linear(20, 20), encoder)
    watch = ForwardWatch(net, list(net.modules()), [], lambda m, o: None, lambda *_: None, {})
    watch.attach()
    assert any(m._forward_hooks for m in encoder.modules())
    watch.detach()
    encoder.eval()
    watch.attach()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in encoder.modules())
    assert net[0]._forward_hooks
    assert watch.unseen() == {FUNCTIONS: "not looked for, because a transformer layer is in evaluation mode"}
    watch.detach()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_what_runs_inside_of_torch_func_alone_is_said_to() -> None:
    class Mapped(Classifier):
        def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
            torch.func.vmap(self.net.get_submodule("1"))(batch[0])
            return F.cross_entropy(self.net.get_submodule("0")(batch[0]), batch[1])

    scope = recorded(nn.Sequential(nn.Linear(20, 4), nn.ReLU()), model=Mapped)
    assert scope.run.coverage.unseen == {"net.1": "ran only inside of torch.func, where what it gives out is no batch"}


class Refuses(nn.ReLU):
    """Lets nobody listen."""

    def register_forward_hook(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("no hooks here")


def test_a_module_that_takes_no_hook_is_named_and_costs_itself_alone() -> None:
    scope = recorded(nn.Sequential(nn.Linear(20, 8), Refuses(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)))
    assert scope.run.coverage.unseen == {
        "hook at net.1": "failed with RuntimeError: no hooks here",
        "net.1": "an activation that never ran as a module in a recorded step",
    }
    dead = scope.run.metric("dead_fraction")
    assert np.isnan(dead[:, names(scope).index("net.1")]).all()
    assert np.isfinite(dead[:, names(scope).index("net.3")]).all()


class Attention(nn.MultiheadAttention):
    """Attention of a user's own make."""


@pytest.mark.parametrize("kind", [nn.MultiheadAttention, Attention])
def test_attention_that_is_evaluated_anywhere_in_the_process_is_minded(kind: type[nn.MultiheadAttention]) -> None:
    def unseen() -> dict[str, str]:
        return dict(ForwardWatch(net, [*net], [], lambda m, o: None, lambda *_: None, {}).unseen())

    net = mlp()
    elsewhere = kind(8, 2)
    assert unseen() == {}
    elsewhere.eval()
    assert unseen() == {FUNCTIONS: "not looked for, because a transformer layer is in evaluation mode"}
    del elsewhere
    assert unseen() == {}


def test_later_steps_hook_activations_alone() -> None:
    net = mlp()
    watch = ForwardWatch(net, list(net), [net[1], net[3]], lambda m, o: None, lambda *_: None, {})
    for _ in range(DISCOVERY):
        watch.attach()
        assert all(m._forward_hooks for m in net)
        watch.detach()
    watch.attach()
    assert [bool(m._forward_hooks) for m in net] == [False, True, False, True, False]
    assert not any(m._forward_pre_hooks for m in net)
    watch.detach()
    watch.attach(everything=True)
    assert all(m._forward_hooks for m in net.modules())
    watch.detach()


def fail(*_: Any, **__: Any) -> Any:
    raise RuntimeError("broken on purpose")


@pytest.mark.parametrize(
    "broken",
    [
        "gradscope.model.forward._graph_task",
        "gradscope.model.trace.Trace.enter",
        "gradscope.model.trace.Trace.leave",
        "gradscope.recorder.Recorder._see",
        "gradscope.recorder.Recorder._see_function",
        "gradscope.model.layers.LayerTable.row_of_call",
    ],
)
def test_what_fails_in_a_hook_never_reaches_the_forward(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broken, fail)
    scope = recorded(nn.Sequential(Block(F.relu), nn.Linear(16, 4)), 12)
    assert len(scope.run.steps) == 12
    assert np.isfinite(scope.run.metric("grad_norm")[:, scope.run.rows("linear")]).all()
    assert scope.run.coverage.unseen["forward hooks"] == "failed with RuntimeError: broken on purpose"


@pytest.mark.parametrize(
    "broken",
    [
        "gradscope.flight.FlightRecorder.before_optimizer_step",
        "gradscope.flight.FlightRecorder.end",
        "gradscope.every_step.StepWatch._count_overflow",
        "gradscope.every_step.StepWatch.before_backward",
    ],
)
def test_what_fails_in_every_step_leaves_the_records_alone(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broken, fail)
    scope = recorded(mlp(), 12)
    assert len(scope.run.steps) == 12
    assert scope.run.coverage.unseen == {"every step": "no longer looked at after RuntimeError: broken on purpose"}


class WithTeacher(Classifier):
    """A transformer in evaluation mode that the Trainer knows nothing of."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(16, 4))
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.hidden = [nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()]

    def teach(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.as_tensor(self.hidden[0](x))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x = self.teach(batch[0][:, :16].reshape(4, 4, 16))
        return F.cross_entropy(self.net(x.reshape(16, 16)), batch[1])


class WithPart(WithTeacher):
    """The same as a part of the model, in evaluation mode for its forward alone."""

    def __init__(self) -> None:
        super().__init__()
        self.part = self.hidden.pop().train()

    def teach(self, x: Tensor) -> Tensor:
        self.part.eval()
        with torch.no_grad():
            y = torch.as_tensor(self.part(x))
        self.part.train()
        return y


@pytest.mark.parametrize("kind", [WithTeacher, WithPart])
def test_a_transformer_that_is_only_evaluated_gives_the_same_bits(kind: type[WithTeacher]) -> None:
    weights = []
    for callbacks in ([GradScope(every_n_steps=1, summary=False)], []):
        torch.manual_seed(3)
        model = kind()
        trainer(*callbacks).fit(model, Batches(number=4))
        weights.append(model.net.state_dict())
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)
    model = None  # type: ignore[assignment]
    gc.collect()  # a transformer in evaluation mode would be minded in the tests that follow


class Mode(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def test_a_users_mode_that_opens_before_and_closes_within_is_gone_after_the_fit() -> None:
    class Opens(pl.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            self.mode = Mode()
            self.mode.__enter__()  # type: ignore[no-untyped-call]

        def on_before_zero_grad(self, *_: Any) -> None:
            self.mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    scope = GradScope(every_n_steps=1, summary=False)
    trainer(Opens(), scope).fit(Classifier(mlp()), Batches(number=4))
    assert torch._C._len_torch_function_stack() == 0
    assert len(scope.run.steps) == 4


def test_a_default_device_stays_at_the_bottom_where_torch_wants_it() -> None:
    class ByHand(Classifier):
        def __init__(self) -> None:
            super().__init__(mlp())
            self.automatic_optimization = False

        def training_step(self, batch: Batch, batch_idx: int) -> None:
            torch.set_default_device("cpu")
            try:
                optimizer: Any = self.optimizers()
                optimizer.zero_grad()
                self.manual_backward(F.cross_entropy(self.net(batch[0]), batch[1]))
                optimizer.step()
            finally:
                torch.set_default_device(None)
                kept = torch._GLOBAL_DEVICE_CONTEXT
                if getattr(kept, "device_context", kept) is None:
                    del kept.device_context  # torch 2.8 leaves it there, and then cannot tell the default device

    scope = GradScope(every_n_steps=1, summary=False)
    trainer(scope).fit(ByHand(), Batches(number=4))
    assert torch._C._len_torch_function_stack() == 0
    assert scope.run.coverage.unseen == {}


def test_an_operation_that_cannot_be_hashed_is_none_of_ours() -> None:
    @dataclass
    class Operation:
        def __call__(self, x: Tensor) -> Any:
            if torch.overrides.has_torch_function_unary(x):
                return torch.overrides.handle_torch_function(self, (x,), x)
            return x * 2

    scope = recorded(nn.Sequential(Block(Operation()), nn.Linear(16, 4)), 2)
    assert scope.run.coverage.unseen["forward hooks"].startswith("failed with TypeError: unhashable")
