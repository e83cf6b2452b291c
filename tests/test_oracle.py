"""What GradScope measures in a real fit where no mode differs: sizes, estimates, and what must not matter."""

from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from gradscope import GradScope, Run
from tests.models import Batches, Classifier, mlp, trainer
from tests.oracle import Expected, Oracle

WIDE = (20, 300, 200, 4)


class Wide(nn.Module):
    """Goes on in float64."""

    def forward(self, x: Tensor) -> Tensor:
        return x.double()


def fit(model: pl.LightningModule, batches: Batches | None = None, **options: Any) -> tuple[Run, dict[int, Expected]]:
    """Fit under GradScope and the oracle together."""
    scope, oracle = GradScope(every_n_steps=1, summary=False), Oracle()
    trainer(scope, oracle, **options).fit(model, batches or Batches())
    assert scope.run.coverage.unseen == {}
    assert list(scope.run.steps) == list(oracle.steps)
    return scope.run, oracle.expected()


@pytest.mark.parametrize(
    "options",
    [{}, {"gradient_clip_val": 0.05}, {"gradient_clip_val": 0.002, "gradient_clip_algorithm": "value"}],
    ids=["plain", "clip by norm", "clip by value"],
)
def test_norms_of_large_tensors_equal_brute_force(options: dict[str, Any]) -> None:
    run, expected = fit(Classifier(mlp(nn.ReLU, WIDE)), **options)
    for s, truth in enumerate(expected.values()):
        for metric in ("grad_norm", "grad_norm_clipped"):
            row = dict(zip((layer.name for layer in run.layers), run.metric(metric)[s], strict=True))
            measured = {name: value for name, value in row.items() if not np.isnan(value)}
            assert measured == pytest.approx(truth.metrics[metric], rel=1e-6), metric
        for name in ("total_norm", "total_norm_clipped", "clip_coefficient"):
            assert run.series(name)[s] == pytest.approx(truth.globals[name], rel=1e-6), name


@pytest.mark.parametrize(("metric", "tolerance"), [("update_ratio", 0.1), ("weight_norm", 0.05)])
def test_what_is_estimated_of_a_large_layer_is_near_the_truth(metric: str, tolerance: float) -> None:
    run, expected = fit(Classifier(mlp(nn.ReLU, (20, 700, 600, 4)), optimizer=torch.optim.AdamW, lr=1e-3))
    middle = next(i for i, layer in enumerate(run.layers) if layer.name == "net.2")
    exact = [truth.metrics[metric]["net.2"] for truth in expected.values()]
    assert run.metric(metric)[:, middle] == pytest.approx(exact, rel=tolerance)


@pytest.mark.parametrize("widths", [(20, 12, 4), (20, 700, 600, 4)], ids=["whole", "sampled"])
def test_weights_on_an_accelerator_are_measured_as_on_the_cpu(widths: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """There samples of all lengths are joined, in place of those of the same one."""
    runs = []
    for accelerator in (False, True):
        monkeypatch.setattr("gradscope.stats.is_accelerator", lambda device, answer=accelerator: answer)
        torch.manual_seed(3)
        net = mlp(nn.ReLU, widths).append(nn.Linear(4, 4, dtype=torch.float64))
        net.insert(len(net) - 1, Wide())
        runs.append(fit(Classifier(net, optimizer=torch.optim.AdamW, lr=1e-3))[0])
    for metric in ("weight_norm", "update_ratio"):
        assert runs[1].metric(metric) == pytest.approx(runs[0].metric(metric), rel=1e-6, nan_ok=True), metric


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
