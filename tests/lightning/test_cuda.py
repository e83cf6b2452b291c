"""On a CUDA device: the host waits for nothing, a record is one copy, and all else is as on the CPU."""

import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from gradscope import GradScope
from tests.models import Batch, Batches, Classifier, mlp, trainer

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype"),
]

SETTLED = 16
"""By then the first steps, which are all recorded, have arrived, and GradScope knows the model."""


@pytest.fixture(autouse=True)
def _asks_nothing() -> Iterator[None]:
    yield
    torch.cuda.set_sync_debug_mode("default")


class OnDevice(Batches):
    """Batches that lie on the device already: loading waits."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.batches = [(x.cuda(), y.cuda()) for x, y in self.batches]


class NoWaiting(pl.Callback):
    """Lets torch raise where the host waits for the device, in the settled steps that `watched` holds for."""

    def __init__(self, watched: Callable[[int], bool]) -> None:
        self._watched = watched

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        watched = int(args[1]) >= SETTLED and self._watched(int(args[1]))
        torch.cuda.set_sync_debug_mode("error" if watched else "default")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        torch.cuda.set_sync_debug_mode("default")


class Waits(pl.Callback):
    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        loss.item()


def fit(model: pl.LightningModule, *callbacks: pl.Callback, batches: int = 40, **options: Any) -> None:
    trainer(*callbacks, accelerator="cuda", **options).fit(model, OnDevice(batches))


def test_a_wait_is_noticed() -> None:
    with pytest.raises(RuntimeError, match="synchronizing"):
        fit(Classifier(mlp()), NoWaiting(lambda step: True), Waits())


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("exact", [False, True], ids=["strided", "exact"])
def test_no_step_waits_for_the_device(optimizer: Any, exact: bool) -> None:
    scope = GradScope(every_n_steps=4, summary=False, exact=exact)
    fit(Classifier(mlp(nn.SELU), lr=1e-3, optimizer=optimizer), NoWaiting(lambda step: True), scope)
    assert scope.run.coverage.unseen == {}
    assert list(scope.run.steps) == [*range(10), *range(12, 40, 4)]


def test_no_unrecorded_step_waits_with_a_convolution_and_functions() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv1d(1, 6, 3, padding=1), nn.BatchNorm1d(6)
            self.head = nn.Linear(120, 4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.as_tensor(self.head(torch.relu(self.norm(self.conv(x.unsqueeze(1)))).flatten(1)))

    scope = GradScope(every_n_steps=4, summary=False)
    fit(Classifier(Net(), lr=1e-3), NoWaiting(lambda step: step % 4 != 0), scope)
    assert scope.run.coverage.unseen == {}
    assert "net.relu" in {layer.name for layer in scope.run.layers}


class Copies(pl.Callback):
    """Counts the copies from the device to the host in the steps of `steps`; to stand before all other callbacks."""

    def __init__(self, *steps: int) -> None:
        self.copies: dict[int, int] = {}
        self._steps = steps
        self._profiler: Any = None

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        step = int(args[1])
        torch.cuda.synchronize()
        if self._profiler is not None:
            self._profiler.stop()
            self.copies[step - 1] = sum("DtoH" in event.name for event in self._profiler.events())
            self._profiler = None
        if step in self._steps:
            self._profiler = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])
            self._profiler.start()


@pytest.mark.filterwarnings("ignore")  # the profiler's own
def test_a_record_is_one_copy_to_the_host() -> None:
    counted, scope = Copies(18, 20, 22), GradScope(every_n_steps=4, summary=False)
    fit(Classifier(mlp(), lr=1e-3), counted, scope)
    assert {20} == {18, 20, 22}.intersection(scope.run.steps.tolist())
    assert counted.copies == {18: 0, 20: 1, 22: 0}


class TurnsToNan(Classifier):
    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if batch_idx == 20:
            with torch.no_grad():
                self.net.get_parameter("2.weight")[0] = torch.nan


def test_a_nan_is_found_in_the_recorded_step_that_it_appears_in() -> None:
    scope = GradScope(every_n_steps=4, summary=False)
    fit(TurnsToNan(mlp(), lr=1e-3), scope)
    (finding,) = [f for f in scope.findings if f.code == "non_finite"]
    assert finding.first_step == 20
    assert finding.layers == ("net.2",)
    assert scope.run.origin is not None
    assert (scope.run.origin.step, scope.run.origin.module) == (20, "net.2")


def test_the_flight_recorder_holds_what_was_trained() -> None:
    runs = []
    for accelerator in ("cpu", "cuda"):
        torch.manual_seed(3)
        scope = GradScope(every_n_steps=4, summary=False)
        trainer(scope, accelerator=accelerator).fit(TurnsToNan(mlp(), lr=1e-3), Batches(40))
        runs.append(scope.run.flights["non_finite"])
    cpu, cuda = runs
    assert cuda.layers == cpu.layers
    # What is found reaches the host of a device some steps later.
    assert list(cpu.steps[:20]) == list(cuda.steps[:20]) == list(range(20))
    np.testing.assert_allclose(cuda.loss[:20], cpu.loss[:20], rtol=1e-4)
    np.testing.assert_allclose(cuda.grad_norm[:20], cpu.grad_norm[:20], rtol=1e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_compiled_model_is_trained_and_measured(mode: str) -> None:
    runs, weights = [], []
    for scopes in ([GradScope(every_n_steps=4, summary=False)], []):
        torch.compiler.reset()
        torch.manual_seed(3)
        model = Classifier(torch.compile(mlp(), fullgraph=True, mode=mode), lr=1e-2)  # type: ignore[arg-type]
        fit(model, *scopes, batches=24)
        weights.append(model.state_dict())
        runs += [scope.run for scope in scopes]
    # Of two graphs the compiler may fuse each in its own way: once in a while the last bit differs.
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-7)
    (run,) = runs
    torch.manual_seed(3)
    scope = GradScope(every_n_steps=4, summary=False)
    fit(Classifier(mlp(), lr=1e-2), scope, batches=24)
    assert list(run.steps) == list(scope.run.steps)
    heard = mode == "default"
    assert ("net.1" in run.coverage.unseen) is not heard
    for name, values in scope.run.metrics.items():
        if heard or name in ("grad_norm", "weight_norm", "update_ratio"):
            np.testing.assert_allclose(run.metric(name), values, rtol=1e-3, atol=1e-6, err_msg=name)
    torch.compiler.reset()


def test_memory_that_runs_out_inside_a_probe_leaves_training_alone() -> None:
    """An exact update ratio copies the weights, of 64 MB, where there is hardly more than training itself takes."""

    def fit_wide(*callbacks: pl.Callback) -> None:
        net = nn.Sequential(nn.Linear(20, 4000), nn.ReLU(), nn.Linear(4000, 4000), nn.ReLU(), nn.Linear(4000, 4))
        fit(Classifier(net, lr=1e-3), *callbacks, batches=8)
        gc.collect()
        torch.cuda.empty_cache()

    fit_wide()
    torch.cuda.reset_peak_memory_stats()
    fit_wide()
    allowed, scope = torch.cuda.max_memory_reserved() + 2**24, GradScope(every_n_steps=1, summary=False, exact=True)
    torch.cuda.set_per_process_memory_fraction(allowed / torch.cuda.get_device_properties(0).total_memory)
    try:
        fit_wide(scope)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert [why for why in scope.run.coverage.unseen.values() if "OutOfMemoryError" in why]
    assert list(scope.run.steps) == list(range(8))
    assert np.isfinite(scope.run.series("loss")).all()


def test_memory_of_the_device_does_not_grow() -> None:
    held: list[int] = []

    class Holds(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
            if args[1] in (200, 598):  # by then the flight recorder is full
                gc.collect()
                held.append(torch.cuda.memory_allocated())

    fit(Classifier(mlp(), lr=1e-3), Holds(), GradScope(every_n_steps=2, summary=False), batches=600)
    early, late = held
    assert late <= early
