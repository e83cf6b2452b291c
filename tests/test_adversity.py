"""Models and training loops that do what nobody expects: training goes on, and nothing untrue is said."""

import copy
import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins.precision import MixedPrecision
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gradscope import GradScope, Origin, Severity, Thresholds
from gradscope.records import Ledger
from tests.models import Batch, Batches, Classifier, Net, mlp, trainer


def fitted(model: Any, batches: int = 12, scope: GradScope | None = None, **options: Any) -> GradScope:
    scope = scope or GradScope(every_n_steps=1, summary=False)
    trainer(scope, **options).fit(model, Batches(number=batches))
    assert all(not m._forward_hooks for m in model.modules())
    return scope


def alarms(scope: GradScope) -> list[str]:
    return [f.code for f in scope.findings if f.severity >= Severity.WARNING]


# ------------------------------------------------------------------ training loops


def test_a_shallow_copy_of_a_module_runs_in_a_training_step() -> None:
    class Copies(Classifier):
        def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
            copy.copy(self.net.get_submodule("1"))(batch[0])
            return super().training_step(batch, batch_idx)

    scope = fitted(Copies(mlp()))
    assert len(scope.run.steps) == 12
    assert scope.run.coverage.unseen == {}


class PastLightning(Classifier):
    """Manual optimization with the bare optimizer: Lightning announces no step."""

    def __init__(self) -> None:
        super().__init__(mlp())
        self.automatic_optimization = False

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        optimizer.zero_grad()
        loss = super().training_step(batch, batch_idx)
        assert loss is not None
        self.manual_backward(loss)
        optimizer.step()


def test_an_optimizer_that_steps_past_lightning_is_measured() -> None:
    scope = fitted(PastLightning())
    assert scope.run.coverage.unseen == {}
    run = scope.run
    assert len(run.steps) == 12
    assert run.ledger == Ledger(12, 0)
    for metric in ("grad_norm", "grad_norm_clipped", "update_ratio"):
        assert np.isfinite(run.metric(metric)[:, run.rows("linear")]).all(), metric


def test_a_nan_is_traced_to_its_step_though_lightning_announces_none() -> None:
    class Spoilt(PastLightning):
        def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
            if batch_idx == 12:
                with torch.no_grad():
                    self.net.get_parameter("2.bias")[0] = torch.nan

    scope = fitted(Spoilt(), batches=15, scope=GradScope(summary=False))
    assert 12 not in scope.run.steps
    assert scope.run.origin == Origin(12, "net.2", "weight")


def test_a_step_with_a_closure_past_lightning_has_what_can_be_known() -> None:
    class Overrides(Classifier):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any = None) -> None:
            optimizer.optimizer.step(closure)

    scope = fitted(Overrides(mlp()))
    run = scope.run
    assert run.coverage.unseen == {}
    assert len(run.steps) == 12
    assert np.isfinite(run.metric("grad_norm_clipped")[:, run.rows("linear")]).all()
    assert np.isnan(run.metric("grad_norm")).all()


class Duck:
    """Has what Lightning asks of an optimizer, and is none of torch's."""

    def __init__(self, params: Any, lr: float) -> None:
        self.base = base = torch.optim.SGD(params, lr)
        self.param_groups, self.state, self.defaults = base.param_groups, base.state, base.defaults

    def step(self, closure: Any = None) -> Any:
        return self.base.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.base.zero_grad(set_to_none)

    def state_dict(self) -> Any:
        return self.base.state_dict()

    def load_state_dict(self, state: Any) -> None:
        self.base.load_state_dict(state)


class Around(Duck):
    """The same around another one, where Lightning keeps that of its own."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr)
        self.optimizer = self.base


class Wrapper(Duck, torch.optim.Optimizer):
    """Inherits from torch's, and does not call its `__init__`."""


class WithPlaces(Wrapper):
    """The same with places for hooks, which nobody looks into."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr)
        self._optimizer_step_pre_hooks: dict[int, Any] = {}
        self._optimizer_step_post_hooks: dict[int, Any] = {}


@pytest.mark.parametrize("kind", [Duck, Around, Wrapper, WithPlaces])
def test_an_optimizer_that_knows_no_hooks_is_measured_like_any_other(kind: Any) -> None:
    runs = []
    for optimizer in (torch.optim.SGD, kind):
        torch.manual_seed(1)
        scope = fitted(Classifier(mlp(), optimizer=optimizer), gradient_clip_val=0.05)
        assert scope.run.coverage.unseen == {}
        assert scope.run.ledger == Ledger(12, 0)
        runs.append(scope.run)
    plain, run = runs
    for metric in plain.metrics:
        np.testing.assert_array_equal(run.metric(metric), plain.metric(metric), metric)
    for name in plain.globals:
        np.testing.assert_array_equal(run.series(name), plain.series(name), name)


def test_beside_a_grad_scaler_nothing_is_said_of_a_step_that_nobody_tells_of() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    run = fitted(Classifier(mlp(), optimizer=Duck), plugins=[MixedPrecision("16-mixed", "cpu", scaler=scaler)]).run
    assert (run.series("total_norm") > 0).all()
    assert (run.series("skipped") == 0).all()
    assert np.isnan(run.series("clip_coefficient")).all()
    assert np.isnan(run.metric("update_ratio")).all()


def test_a_step_within_a_step_is_one() -> None:
    class Own(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            return super().step(closure)

    torch.optim.SGD([torch.zeros(1)], 0.1)  # torch wraps the step of each class whose instances it has seen
    scope = fitted(Classifier(mlp(), optimizer=Own))
    assert scope.run.ledger == Ledger(12, 0)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_an_optimizer_that_wipes_its_gradients_does_not_clip_them(set_to_none: bool) -> None:
    class Wipes(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            loss = super().step(closure)
            self.zero_grad(set_to_none)
            return loss

    scope = fitted(Classifier(mlp(), optimizer=Wipes))
    run = scope.run
    assert (run.series("total_norm") > 0).all()
    assert (run.series("skipped") == 0).all()
    assert np.isnan(run.series("total_norm_clipped")).all()
    assert np.isnan(run.series("clip_coefficient")).all()
    assert np.isnan(run.metric("grad_norm_clipped")).all()


def test_a_record_that_never_ends_is_given_up_in_the_open(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class NeverSteps(Classifier):
        def __init__(self) -> None:
            super().__init__(mlp())
            self.automatic_optimization = False

        def training_step(self, batch: Batch, batch_idx: int) -> None:
            super().training_step(batch, batch_idx)

    monkeypatch.setattr("gradscope.lightning.callback.MICRO_BATCH_LIMIT", 5)
    scope = fitted(NeverSteps())
    reason = "switched itself off: no optimizer stepped in 5 batches"
    assert scope.run.coverage.unseen["GradScope"] == reason
    assert sum(reason in r.getMessage() for r in caplog.records) == 1


@pytest.mark.filterwarnings("ignore:.LightningModule.configure_optimizers. returned .None.")
def test_an_optimizer_that_lightning_does_not_know_of_leaves_a_word(caplog: pytest.LogCaptureFixture) -> None:
    class Keeps(Classifier):
        """Keeps its optimizer to itself."""

        def __init__(self) -> None:
            super().__init__(mlp())
            self.automatic_optimization = False
            self.own = torch.optim.SGD(self.net.parameters(), 0.1)

        def configure_optimizers(self) -> None:
            return None

        def training_step(self, batch: Batch, batch_idx: int) -> None:
            self.own.zero_grad()
            loss = super().training_step(batch, batch_idx)
            assert loss is not None
            self.manual_backward(loss)
            self.own.step()

    scope = fitted(Keeps())
    reason = "no optimizer stepped that configure_optimizers gave"
    assert [reason in r.getMessage() for r in caplog.records if r.name == "gradscope"] == [True]
    assert reason in scope.run.coverage.unseen["records"]


def test_records_that_fail_are_not_said_to_be_missing_for_want_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr("gradscope.recorder.Transfer", fails)
    scope = fitted(Classifier(mlp()))
    assert scope.run.coverage.unseen == {"transfer": "failed with RuntimeError: broken on purpose"}


def test_checkpointing_with_a_plain_backward_is_counted_once() -> None:
    class Checkpointed(PastLightning):
        def training_step(self, batch: Batch, batch_idx: int) -> None:
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            output = checkpoint(self.net, batch[0], use_reentrant=False)
            torch.nn.functional.cross_entropy(output, batch[1]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    scope = fitted(Checkpointed())
    assert [layer.name for layer in scope.run.layers] == [f"net.{i}" for i in range(5)]


def test_lbfgs_evaluates_several_times_and_is_recorded_once() -> None:
    scope = fitted(Classifier(mlp(nn.Tanh), lr=0.01, optimizer=torch.optim.LBFGS), batches=3)
    assert [layer.name for layer in scope.run.layers] == [f"net.{i}" for i in range(5)]
    assert scope.run.coverage.unseen == {}
    assert np.isfinite(scope.run.metric("update_ratio")[:, 0]).all()


def test_the_model_is_let_go_after_the_fit() -> None:
    scope, model = GradScope(summary=False), Classifier(mlp())
    fitted(model, scope=scope)
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None
    assert len(scope.run.steps) == 11
    assert scope.run.overhead.gradscope_seconds > 0


def test_gradients_per_sample_by_torch_func_are_not_taken_for_batches() -> None:
    class PerSample(Classifier):
        def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
            parameters = {k: v.detach() for k, v in self.net.named_parameters()}

            def loss(p: dict[str, Tensor], x: Tensor) -> Tensor:
                return torch.as_tensor(torch.func.functional_call(self.net, p, (x.unsqueeze(0),)).sum())

            torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, batch[0])
            return super().training_step(batch, batch_idx)

    scope = fitted(PerSample(mlp()))
    assert scope.run.coverage.unseen == {}
    assert np.isfinite(scope.run.metric("act_mean")[:, 1]).all()


# ------------------------------------------------------------------ outputs


def test_an_expert_that_often_gets_an_empty_batch_is_no_fault() -> None:
    def route(net: Any, x: Tensor) -> Any:
        chosen = x[:, 0] > 1.0  # most of the time one or two of sixteen, often none
        chosen[:] &= bool(x[0, 1] > 0)
        extra = torch.zeros(len(x), 4).index_add(0, chosen.nonzero()[:, 0], net.expert(x[chosen]))
        return net.trunk(x) + extra

    scope = fitted(Classifier(Net(route, trunk=mlp(), expert=mlp())), batches=40)
    assert alarms(scope) == []
    assert scope.run.coverage.unseen == {}
    expert = [i for i, layer in enumerate(scope.run.layers) if layer.name.startswith("net.expert.") and i]
    assert np.isnan(scope.run.metric("act_mean")[:, expert]).any(), "the test has empty batches"


def test_a_loop_over_time_is_one_batch() -> None:
    def loop(net: Any, x: Tensor) -> Any:
        for t in range(60):
            # Two of four units fire in the first half of the loop alone.
            sign = torch.tensor([1.0, 1.0, *[1.0 if t < 30 else -1.0] * 2])
            hidden = net.act(net.enter(x).abs() * sign)
        return hidden + net.enter(x)

    scope = fitted(Classifier(Net(loop, enter=nn.Linear(20, 4), act=nn.ReLU())), batches=20)
    assert scope.run.coverage.unseen == {}
    assert alarms(scope) == []
    last = [layer.name for layer in scope.run.layers].index("net.act#8")
    assert (scope.run.metric("dead_fraction")[:, last] == 0).all()


def test_widths_that_change_switch_off_one_layer_and_no_other() -> None:
    def run(net: Any, x: Tensor) -> Any:
        for i in range(11):
            net.shared(x[:, : 5 + i])
        return net.body(x)

    scope = fitted(Classifier(Net(run, shared=nn.ReLU(), body=mlp())))
    (off,) = scope.run.coverage.unseen
    assert off == "LivenessProbe at net.shared#8"
    assert "the number of units changed from 12 to 13" in scope.run.coverage.unseen[off]
    body = [layer.name for layer in scope.run.layers].index("net.body.1")
    assert np.isfinite(scope.run.metric("dead_fraction")[:, body]).all()


def test_an_output_without_features_is_one_unit() -> None:
    def run(net: Any, x: Tensor) -> Any:
        gate = net.act(net.gate(x[: len(x) - int(x[0, 0] > 0)]).squeeze(-1))  # fifteen or sixteen numbers
        return net.head(x) * (1 + gate.mean())

    scope = fitted(Classifier(Net(run, gate=nn.Linear(20, 1), act=nn.ReLU(), head=nn.Linear(20, 4))), batches=40)
    assert scope.run.coverage.unseen == {}
    row = [layer.name for layer in scope.run.layers].index("net.act")
    assert (scope.run.metric("dead_fraction")[:, row] == 0).all()
    assert alarms(scope) == []


class Scale(nn.Module):
    """A layer of the user's own between a convolution and its activation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


def test_dead_channels_are_seen_behind_a_layer_of_the_users_own() -> None:
    conv = nn.Conv2d(1, 8, 3)
    nn.init.constant_(conv.bias[:6], -100.0)  # type: ignore[index]
    net = nn.Sequential(nn.Unflatten(1, (1, 4, 5)), conv, Scale(8), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4))
    scope = fitted(Classifier(net, lr=1e-4))
    row = [layer.type for layer in scope.run.layers].index("ReLU")
    assert scope.run.metric("dead_fraction")[-1, row] == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("activation", "got"),
    [(lambda x: (x, x), "tuple"), (lambda x: torch.complex(x, x), "torch.complex64")],
    ids=["tuple", "complex"],
)
def test_an_output_that_cannot_be_measured_is_said_once(activation: Any, got: str) -> None:
    class ReLU(nn.Module):
        """Known by its name, odd by its output."""

        def forward(self, x: Tensor) -> Any:
            return activation(x)

    def run(net: Any, x: Tensor) -> Any:
        net.odd(x)
        return net.body(x)

    scope = fitted(Classifier(Net(run, odd=ReLU(), body=mlp())))
    reason = f"not measured: an activation must give out a real floating tensor, got {got}"
    assert scope.run.coverage.unseen == {"net.odd": reason}
    assert alarms(scope) == []


def test_the_limits_of_a_wide_hardtanh_are_its_own() -> None:
    scope = fitted(Classifier(mlp(lambda: nn.Hardtanh(-50, 50))), scope=GradScope(summary=False))
    assert np.nanmax(scope.run.metric("saturated_fraction")) == 0


def test_heads_that_grow_sure_are_no_fault() -> None:
    class Sure(Classifier):
        def __init__(self) -> None:
            heads = {n: nn.Sequential(nn.Linear(16, 1), nn.Sigmoid()) for n in ("first", "second")}
            super().__init__(Net(lambda n, x: n.trunk(x), trunk=nn.Linear(20, 16), **heads), 0.05, torch.optim.Adam)

        def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
            features = self.net(batch[0])
            target = (batch[0][:, :1] > 0).float()
            outputs = [self.net.get_submodule(name)(features) for name in ("first", "second")]
            return torch.stack([nn.functional.binary_cross_entropy(o, target) for o in outputs]).sum()

    scope = fitted(Sure(), batches=20, max_epochs=20)
    assert np.nanmax(scope.run.metric("saturated_fraction")[-1]) > 0.5, "the test has sure outputs"
    assert alarms(scope) == []


# ------------------------------------------------------------------ what is not seen is said


def test_trainable_layers_in_no_optimizer_are_said() -> None:
    class Half(Classifier):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.net.get_submodule("0").parameters(), lr=0.1)

    reason = "has trainable parameters that are in no optimizer"
    assert fitted(Half(mlp())).run.coverage.unseen == {"net.2": reason, "net.4": reason}


def test_a_lazy_layer_that_never_runs_leaves_the_others_alone() -> None:
    model = Classifier(mlp(), optimizer=torch.optim.SGD)
    model.spare = nn.LazyLinear(3)
    scope = fitted(model)
    assert np.isfinite(scope.run.metric("update_ratio")[:, scope.run.rows("linear")[0]]).all()
    assert scope.run.coverage.unseen == {}


# ------------------------------------------------------------------ what is asked for is logged


@pytest.mark.parametrize(
    ("part", "tag", "plugin"),
    [
        ("tensors", "gradscope/grad_norm", "gradscope"),
        ("scalars", "gradscope/grad_norm/median", "scalars"),
        ("layers", "gradscope_grad_norm/net.0", "scalars"),
        ("distribution", "gradscope/log10_grad_norm_over_layers", "histograms"),
        ("heat_map", "gradscope/heat_map/grad_norm", "images"),
        ("verdicts", "gradscope/verdict", "text"),
    ],
)
def test_each_part_of_the_log_alone(part: str, tag: str, plugin: str, tmp_path: Path) -> None:
    scope = GradScope(summary=False, log=[part], thresholds=Thresholds())
    fitted(Classifier(mlp()), scope=scope, logger=TensorBoardLogger(tmp_path, name="", version=""))
    events = EventAccumulator(str(tmp_path)).Reload()
    assert plugin == "scalars" or tag in events.PluginTagToContent(plugin) or tag in events.Tags()["tensors"]
    tags = {t for kind in events.Tags().values() if isinstance(kind, list) for t in kind if t.startswith("gradscope")}
    assert tag in tags
    others = {"gradscope/grad_norm", "gradscope/grad_norm/median", "gradscope_grad_norm/net.0", "gradscope/verdict"}
    assert tags & (others - {tag}) == set()


def test_a_layer_that_comes_after_the_fit_began_is_said() -> None:
    class Grows(Classifier):
        def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
            if batch_idx == 3:
                self.add_module("late", nn.Linear(4, 4))

    assert fitted(Grows(mlp())).run.coverage.unseen == {"late": "came into the model after the fit began"}


def test_channels_of_a_large_output_that_fire_for_the_last_samples_alone_are_alive() -> None:
    conv = nn.Conv2d(1, 4, 3, padding=1)
    nn.init.constant_(conv.bias[:1], -1e9)  # type: ignore[index]
    nn.init.constant_(conv.bias[1:], 10.0)  # type: ignore[index]

    def run(net: Any, x: Tensor) -> Any:
        images = torch.zeros(16, 1, 64, 64)
        images[:, 0, 0, 0] = x[:, 0]
        gates = torch.ones(16, 4, 1, 1)
        gates[:14, 1] = -1.0  # the second channel fires for the last two samples
        return net.head(net.act(net.conv(images) * gates).mean((2, 3)))

    scope = fitted(Classifier(Net(run, conv=conv, act=nn.ReLU(), head=nn.Linear(4, 4)), lr=1e-9), batches=3)
    row = [layer.name for layer in scope.run.layers].index("net.act")
    assert scope.run.metric("dead_fraction")[:, row].tolist() == [0.25] * 3


def test_a_step_from_infinite_weights_is_measured_without_a_word_of_numpy() -> None:
    class Resets(torch.optim.SGD):
        def step(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().step(*args, **kwargs)
            for parameter in self.param_groups[0]["params"]:
                parameter.data.zero_()  # a change of infinite size, from weights of infinite size
            return loss

    class Overflows(Classifier):
        def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
            nn.init.constant_(self.net.get_submodule("0").get_parameter("weight"), torch.inf)

    scope = fitted(Overflows(mlp(), optimizer=Resets), batches=3)
    assert scope.run.coverage.unseen == {}
    assert np.isnan(scope.run.metric("update_ratio")[:, 0]).all()
