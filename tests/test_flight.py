"""The flight recorder: every one of the last steps, and nothing copied until there is a disaster."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gradscope
from gradscope import GradScope
from gradscope.flight import LAYERS, SAMPLE, FlightRecorder
from gradscope.model.layers import LayerTable
from gradscope.model.moment import Moment, Parameters
from tests.models import Batch, Batches, Classifier, mlp, trainer


def recorder_for(net: nn.Module, steps: int = 5) -> tuple[FlightRecorder, Moment]:
    table = LayerTable(net, lambda name: True)
    tensors = tuple(net.parameters())
    rows = np.array([table.row_of_parameter(p) for p in tensors], dtype=np.int64)
    return FlightRecorder(table, steps), Moment(0, Parameters(tensors, rows))


def backward(net: nn.Module, features: int = 20) -> None:
    net.zero_grad()
    net(torch.randn(8, features)).square().sum().backward()


@pytest.fixture(params=["cpu", "accelerator"])
def _device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also as on an accelerator, where samples are kept in place of norms."""
    monkeypatch.setattr("gradscope.stats.is_accelerator", lambda device: request.param == "accelerator")


def exact_norms(net: nn.Sequential) -> list[float]:
    return [m.weight.grad.norm().item() for m in net if isinstance(m, nn.Linear) and m.weight.grad is not None]


@pytest.mark.usefixtures("_device")
def test_norms_of_small_weights_are_exact_and_the_oldest_steps_go() -> None:
    net = mlp(widths=(8, 16, 12, 4))
    recorder, step = recorder_for(net, 3)
    expected = []
    for i in range(5):
        backward(net, 8)
        recorder.before_optimizer_step(step)
        recorder.end(10 + i, [torch.tensor(1.0 + i), torch.tensor(2.0 + i)])
        expected.append(
            [m.weight.grad.norm().item() for m in net if isinstance(m, nn.Linear) if m.weight.grad is not None]
        )
    flight = recorder.flight()
    assert flight.steps.tolist() == [12, 13, 14]
    assert flight.loss.tolist() == [3.5, 4.5, 5.5]
    assert flight.layers == ("0", "2", "4")
    np.testing.assert_allclose(flight.grad_norm, expected[2:], rtol=1e-5)


@pytest.mark.usefixtures("_device")
def test_a_weight_may_grow_in_the_middle() -> None:
    net = nn.Sequential(nn.Linear(8, 4, bias=False))
    recorder, step = recorder_for(net, 3)
    expected = []
    for i in range(2):
        backward(net, 8)
        expected.append(exact_norms(net))
        recorder.before_optimizer_step(step)
        recorder.end(i, [])
        net[0].weight.data, net[0].weight.grad = torch.randn(16, 8), None
    np.testing.assert_allclose(recorder.flight().grad_norm, expected, rtol=1e-5)


@pytest.mark.usefixtures("_device")
def test_norms_of_large_weights_are_estimated() -> None:
    net = mlp(widths=(20, 700, 600, 500, 4))
    recorder, step = recorder_for(net)
    backward(net)
    recorder.before_optimizer_step(step)
    recorder.end(0, [])
    exact = exact_norms(net)
    flight = recorder.flight()
    assert np.isnan(flight.loss).all()
    np.testing.assert_allclose(flight.grad_norm[0], exact, rtol=0.4)
    assert max(m.weight.numel() for m in net if isinstance(m, nn.Linear)) > 100 * SAMPLE


@pytest.mark.usefixtures("_device")
@pytest.mark.parametrize("width", [26, 32, 38, 39, 50])
def test_no_part_of_a_small_weight_is_left_out(width: int) -> None:
    """Of 520 to 1,000 elements, where a sample leaves out every other one."""
    net = nn.Sequential(nn.Linear(20, width))
    recorder, step = recorder_for(net)
    backward(net)
    weight = torch.as_tensor(net.get_parameter("0.weight").grad)
    weight[: width // 2] = 0
    recorder.before_optimizer_step(step)
    recorder.end(0, [])
    np.testing.assert_allclose(recorder.flight().grad_norm[0], [weight.norm().item()], rtol=0.25)


@pytest.mark.usefixtures("_device")
def test_a_deep_net_is_looked_at_from_end_to_end() -> None:
    net = mlp(widths=(20,) * 101)
    recorder, step = recorder_for(net)
    backward(net)
    recorder.before_optimizer_step(step)
    recorder.end(0, [])
    layers = recorder.flight().layers
    assert len(layers) == LAYERS >= 3
    assert (layers[0], layers[-1]) == ("0", "198")


@pytest.mark.usefixtures("_device")
def test_what_is_scaled_or_complex() -> None:
    class Complex(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.real, self.weight = nn.Linear(20, 40), nn.Parameter(torch.randn(40, 30, dtype=torch.complex64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.as_tensor((self.real(x).to(torch.complex64) @ self.weight).abs())

    net = Complex()
    recorder, step = recorder_for(net)
    backward(net)
    expected = [torch.as_tensor(p.grad).norm().item() for p in (net.real.weight, net.weight)]
    assert max(p.numel() for p in net.parameters()) > 2 * SAMPLE
    recorder.before_optimizer_step(step._replace(loss_scale=torch.tensor([4.0]), scaled=True))
    recorder.end(0, [])
    flight = recorder.flight()
    assert set(flight.layers) == {"(root)", "real"}
    found = dict(zip(flight.layers, flight.grad_norm[0], strict=True))
    assert [found["real"], found["(root)"]] == pytest.approx([norm / 4 for norm in expected], rel=0.4)


def test_samples_of_an_accelerator_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """One tensor a step, and nothing of the gradients themselves."""
    monkeypatch.setattr("gradscope.stats.is_accelerator", lambda device: True)
    net = mlp(widths=(20, 700, 4))
    recorder, step = recorder_for(net)
    backward(net)
    assert recorder.before_optimizer_step(step) == []
    (taken,) = recorder._norms.values()
    assert taken.samples is not None
    assert 1.9 * SAMPLE <= len(taken.samples) <= 2 * SAMPLE
    storages = {torch.as_tensor(p.grad).untyped_storage().data_ptr() for p in net.parameters()}
    assert taken.samples.untyped_storage().data_ptr() not in storages


@pytest.mark.usefixtures("_device")
def test_what_is_frozen_sparse_or_scaled() -> None:
    net = nn.Sequential(nn.Embedding(50, 16, sparse=True), nn.Flatten(), nn.Linear(32, 8), nn.Linear(8, 4))
    recorder, step = recorder_for(net)
    net[3].requires_grad_(False)
    net(torch.randint(0, 50, (6, 2))).square().sum().backward()
    recorder.before_optimizer_step(step._replace(loss_scale=torch.tensor([4.0]), scaled=True))
    recorder.end(0, [])
    flight = recorder.flight()
    gradients = [
        g.to_dense()
        for p in (net.get_parameter("0.weight"), net.get_parameter("2.weight"))
        if (g := p.grad) is not None
    ]
    assert flight.layers == ("0", "2")
    np.testing.assert_allclose(flight.grad_norm[0], [g.norm().item() / 4 for g in gradients], rtol=1e-5)


@pytest.mark.usefixtures("_device")
def test_no_gradient_no_norm() -> None:
    recorder, step = recorder_for(mlp())
    assert recorder.before_optimizer_step(step) == []
    recorder.end(3, [])
    flight = recorder.flight()
    assert flight.steps.tolist() == [3]
    assert flight.grad_norm.shape == (1, 0)
    assert recorder_for(mlp())[0].flight().steps.shape == (0,)


class Explodes(Classifier):
    """Its learning rate grows a hundredfold at step 30."""

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if batch_idx == 30:
            self.trainer.optimizers[0].param_groups[0]["lr"] = 1e3


@pytest.mark.parametrize("steps", [0, 12])
def test_a_critical_finding_writes_out_the_steps_before_it(steps: int, tmp_path: Any) -> None:
    logger = pytest.importorskip("pytorch_lightning.loggers").TensorBoardLogger(tmp_path, name="", version="")
    scope = GradScope(summary=False, flight_recorder=steps)
    trainer(scope, logger=logger).fit(Explodes(mlp(), lr=0.01), Batches(number=60))
    codes = {f.code for f in scope.findings if f.severity is gradscope.Severity.CRITICAL}
    assert codes
    run = gradscope.load(tmp_path)["."]
    if not steps:
        assert scope.run.flights == run.flights == {}
        return
    assert set(run.flights) == set(scope.run.flights) == codes
    flight = min(run.flights.values(), key=lambda f: f.steps[0])
    assert len(flight.steps) == steps
    assert (np.diff(flight.steps) == 1).all(), "every step, recorded or not"
    assert flight.steps[0] <= 30 <= flight.steps[-1]
    norms = np.nanmax(flight.grad_norm, axis=1)
    assert norms.max() > 100 * norms[0]
