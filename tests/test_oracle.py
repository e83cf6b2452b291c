"""What GradScope measures in a real fit against brute force: everything kept, everything in float64."""

import math
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from gradscope import GradScope, Run
from tests.models import Batch, Batches, Classifier, mlp, trainer


class Oracle(pl.Callback):
    """Keeps whole tensors of every step, by layer: gradients before clipping and after, weights, outputs."""

    def __init__(self) -> None:
        self.before: dict[int, dict[str, Tensor]] = defaultdict(dict)
        self.after: dict[int, dict[str, Tensor]] = defaultdict(dict)
        self.weights: dict[int, dict[str, Tensor]] = defaultdict(dict)
        self.moved: dict[int, dict[str, Tensor]] = defaultdict(dict)
        self.outputs: dict[int, dict[str, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
        self.by_hand: dict[int, dict[str, Tensor]] = {}
        self.step = 0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for name, module in pl_module.named_modules():
            if not list(module.children()):
                module.register_forward_hook(lambda m, a, out, n=name: self.keep_output(n, out))
        for optimizer in trainer.optimizers:
            optimizer.register_step_post_hook(lambda o, *_: self.keep_after(pl_module, o))

    def keep_output(self, name: str, output: Tensor) -> None:
        self.outputs[self.step][name].append(output.detach().double().clone())

    def keep_after(self, module: pl.LightningModule, optimizer: Optimizer) -> None:
        self.after[self.step] |= by_layer(module, optimizer, lambda p: p.grad)
        self.moved[self.step] |= by_layer(module, optimizer, lambda p: p)

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not pl_module.automatic_optimization:  # before the user clips
            self.by_hand = {id(o): by_layer(pl_module, o, lambda p: p.grad) for o in trainer.optimizers}

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        own = self.by_hand.get(id(getattr(optimizer, "optimizer", optimizer)))
        self.before[self.step] |= own or by_layer(pl_module, optimizer, lambda p: p.grad)
        self.weights[self.step] |= by_layer(pl_module, optimizer, lambda p: p)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.step = trainer.fit_loop.epoch_loop._batches_that_stepped + (self.step in self.before)


def by_layer(module: pl.LightningModule, optimizer: Optimizer, what: Any) -> dict[str, Tensor]:
    mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
    parts: defaultdict[str, list[Tensor]] = defaultdict(list)
    for name, parameter in module.named_parameters():
        if id(parameter) in mine and what(parameter) is not None:
            parts[name.rpartition(".")[0]].append(what(parameter).detach().double().flatten())
    return {name: torch.cat(tensors) for name, tensors in parts.items()}


def fit(model: pl.LightningModule, batches: Batches | None = None, **options: Any) -> tuple[Run, Oracle]:
    scope, oracle = GradScope(every_n_steps=1, summary=False), Oracle()
    trainer(scope, oracle, **options).fit(model, batches or Batches())
    assert scope.run.coverage.unseen == {}
    return scope.run, oracle


def assert_norms(run: Run, metric: str, kept: dict[int, dict[str, Tensor]]) -> None:
    assert len(run.steps) > 1
    for s, step in enumerate(run.steps):
        measured = {
            layer.name: v for layer, v in zip(run.layers, run.metric(metric)[s], strict=True) if not np.isnan(v)
        }
        assert measured == pytest.approx({n: t.norm().item() for n, t in kept[int(step)].items()}, rel=1e-6)


def total(kept: dict[str, Tensor]) -> float:
    return math.sqrt(sum(t.square().sum().item() for t in kept.values()))


WIDE = (20, 300, 200, 4)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_clip_val": 0.05, "gradient_clip_algorithm": "norm"},
        {"gradient_clip_val": 0.002, "gradient_clip_algorithm": "value"},
        {"accumulate_grad_batches": 4},
        {"precision": "bf16-mixed"},
    ],
    ids=["plain", "clip by norm", "clip by value", "accumulation", "bf16"],
)
def test_norms_and_totals_equal_brute_force(options: dict[str, Any]) -> None:
    run, oracle = fit(Classifier(mlp(nn.ReLU, WIDE)), Batches(number=8), **options)
    assert list(run.steps) == list(range(8 // options.get("accumulate_grad_batches", 1)))
    assert_norms(run, "grad_norm", oracle.before)
    assert_norms(run, "grad_norm_clipped", oracle.after)
    assert_norms(run, "weight_norm", oracle.weights)
    before = [total(oracle.before[int(s)]) for s in run.steps]
    after = [total(oracle.after[int(s)]) for s in run.steps]
    assert run.series("total_norm") == pytest.approx(before, rel=1e-6)
    assert run.series("total_norm_clipped") == pytest.approx(after, rel=1e-6)
    coefficients = run.series("clip_coefficient")
    assert coefficients == pytest.approx(np.array(after) / before, rel=1e-6)
    assert (coefficients < 0.9).all() == ("gradient_clip_val" in options)
    assert (run.series("skipped") == 0).all()


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
def test_update_ratio_equals_brute_force_for_any_optimizer(optimizer: Any) -> None:
    run, oracle = fit(Classifier(mlp(), lr=0.01, optimizer=optimizer))  # so small that every element is looked at
    for s, step in enumerate(run.steps):
        for i, layer in enumerate(run.layers):
            if layer.kind == "linear":
                old, new = oracle.weights[int(step)][layer.name], oracle.moved[int(step)][layer.name]
                exact = ((new - old).norm() / old.norm()).item()
                assert run.metric("update_ratio")[s, i] == pytest.approx(exact, rel=1e-4)


def test_update_ratio_of_a_large_layer_is_estimated_within_a_tenth() -> None:
    run, oracle = fit(Classifier(mlp(nn.ReLU, (20, 700, 600, 4)), optimizer=torch.optim.AdamW, lr=1e-3))
    middle = next(i for i, layer in enumerate(run.layers) if layer.name == "net.2")
    exact = [
        ((oracle.moved[s]["net.2"] - w["net.2"]).norm() / w["net.2"].norm()).item() for s, w in oracle.weights.items()
    ]
    assert run.metric("update_ratio")[:, middle] == pytest.approx(exact[: len(run.steps)], rel=0.1)


def test_update_ratio_without_weights_is_absent() -> None:
    net = mlp()
    nn.init.zeros_(net[4].weight)  # type: ignore[arg-type]
    nn.init.zeros_(net[4].bias)  # type: ignore[arg-type]
    run, _ = fit(Classifier(net))
    head = next(i for i, layer in enumerate(run.layers) if layer.name == "net.4")
    assert np.isnan(run.metric("update_ratio")[0, head])
    assert np.isfinite(run.metric("update_ratio")[1:, head]).all()


class TwoOptimizers(Classifier):
    """Manual optimization: the two halves of the net step in turn, as in a GAN."""

    def __init__(self) -> None:
        super().__init__(mlp())
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        front, back = self.net[:2], self.net[2:]  # type: ignore[index]
        return torch.optim.SGD(front.parameters(), lr=0.1), torch.optim.Adam(back.parameters(), lr=0.01)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        optimizers: list[Any] = self.optimizers()  # type: ignore[assignment]
        for optimizer in optimizers:
            loss = F.cross_entropy(self.net(batch[0]), batch[1])
            optimizer.zero_grad()
            self.manual_backward(loss)
            self.clip_gradients(optimizer, gradient_clip_val=0.05)
            optimizer.step()


def test_two_optimizers_by_hand() -> None:
    run, oracle = fit(TwoOptimizers())
    assert list(run.steps) == list(range(6)), "a batch is a step, however many optimizers it has"
    assert_norms(run, "grad_norm", oracle.before)
    assert_norms(run, "grad_norm_clipped", oracle.after)
    assert (run.series("total_norm") > 1.5 * run.series("total_norm_clipped")).all(), "the test clips"
    assert (run.series("total_norm_clipped") <= math.sqrt(2) * 0.05 * 1.001).all()
    assert {"net.1", "net.1#2"} <= {layer.name for layer in run.layers}, "each forward of a step has its row"


@pytest.mark.parametrize("micro_batches", [1, 4])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Sigmoid, nn.Tanh, nn.SELU, nn.GELU, lambda: nn.ReLU(inplace=True)])
def test_activations_equal_brute_force(activation: Any, micro_batches: int) -> None:
    net = mlp(activation)
    with torch.no_grad():
        for module in net:
            if isinstance(module, nn.Linear):
                module.weight.mul_(4)  # some outputs saturate
        net.get_parameter("0.bias")[:5] = -100  # and some units are dead
    run, oracle = fit(Classifier(net, lr=1e-4), Batches(number=4), accumulate_grad_batches=micro_batches)
    last = int(run.steps[-1])
    for i, layer in enumerate(run.layers):
        if layer.kind == "linear":
            continue
        outputs = torch.cat(oracle.outputs[last][layer.name])
        values = {
            name: run.metric(name)[-1, i] for name in ("act_mean", "act_var", "zero_fraction", "saturated_fraction")
        }
        assert values["act_mean"] == pytest.approx(outputs.mean().item(), rel=1e-5, abs=1e-6)
        assert values["act_var"] == pytest.approx(outputs.var(correction=0).item(), rel=1e-5)
        if layer.kind == "rectifier":
            everything = torch.cat([torch.cat(oracle.outputs[s][layer.name]) for s in range(last + 1)])
            dead = (everything <= 0).all(dim=0).double().mean().item()
            assert values["zero_fraction"] == pytest.approx((outputs == 0).double().mean().item(), abs=1e-6)
            assert run.metric("dead_fraction")[-1, i] == pytest.approx(dead)
        else:
            assert np.isnan(values["zero_fraction"])
            assert np.isnan(run.metric("dead_fraction")[-1, i])
        if layer.kind == "saturating":
            low, high = (0, 1) if layer.type == "Sigmoid" else (-1, 1)
            edge = 0.01 * (high - low)
            near = (outputs <= low + edge) | (outputs >= high - edge)
            assert values["saturated_fraction"] == pytest.approx(near.double().mean().item(), abs=1e-6)
    saturating = run.rows("saturating")
    assert not len(saturating) or (run.metric("saturated_fraction")[-1, saturating] > 0).any()


def test_micro_batches_measure_what_one_batch_measures() -> None:
    whole = Batches(number=3, size=64)
    parts = Batches(number=0)
    parts.batches = [(x[i : i + 16], y[i : i + 16]) for x, y in whole for i in range(0, 64, 16)]
    torch.manual_seed(3)
    one, _ = fit(Classifier(mlp()), whole)
    torch.manual_seed(3)
    four, _ = fit(Classifier(mlp()), parts, accumulate_grad_batches=4)
    assert list(one.steps) == list(four.steps)
    for metric in ("grad_norm", "weight_norm", "update_ratio", "act_mean", "act_var", "zero_fraction", "dead_fraction"):
        assert four.metric(metric) == pytest.approx(one.metric(metric), rel=1e-4, nan_ok=True), metric
    assert four.series("loss") == pytest.approx(one.series("loss"), rel=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_measures_what_the_cpu_measures() -> None:
    runs = []
    for accelerator in ("cpu", "cuda"):
        torch.manual_seed(3)
        scope = GradScope(every_n_steps=1, summary=False)
        trainer(scope, accelerator=accelerator).fit(Classifier(mlp(nn.ReLU, WIDE)), Batches())
        assert scope.run.coverage.unseen == {}
        runs.append(scope.run)
    cpu, cuda = runs
    assert list(cpu.steps) == list(cuda.steps)
    assert cpu.layers == cuda.layers
    for metric in cpu.metrics:
        assert cuda.metric(metric) == pytest.approx(cpu.metric(metric), rel=1e-3, abs=1e-6, nan_ok=True), metric


def test_convolutions_count_channels_and_sequences_count_features() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(1, 6, 3)
            self.norm = nn.BatchNorm1d(6)
            self.act1 = nn.ReLU()
            self.linear = nn.Linear(18, 5)
            self.act2 = nn.ReLU()
            self.head = nn.Linear(5, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.act1(self.norm(self.conv(x.unsqueeze(1))))  # (N, 6, 18)
            tokens: Tensor = self.act2(self.linear(x))  # (N, 6, 5): six tokens of five features
            return torch.as_tensor(self.head(tokens.mean(1)))

    net = Net()
    with torch.no_grad():
        net.norm.bias[:2] = -100  # two of six channels
        net.linear.bias[:1] = -100  # one of five features
    run, _ = fit(Classifier(net, lr=1e-6))
    dead = {layer.name: v for layer, v in zip(run.layers, run.metric("dead_fraction")[-1], strict=True)}
    assert dead["net.act1"] == pytest.approx(2 / 6)
    assert dead["net.act2"] == pytest.approx(1 / 5)
