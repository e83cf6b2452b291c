"""A fit that goes on from a checkpoint goes on with its record: no gap, no repetition, no false alarm."""

import copy
import json
import logging
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins.precision import MixedPrecision
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor, nn

import gradscope
from gradscope import Flight, GradScope, Record, Run, Severity, Thresholds
from gradscope.flight import _joined
from gradscope.history import History
from gradscope.lightning.actions import Action, Actions
from gradscope.lightning.attached import AttachedGradScope
from gradscope.lightning.cadence import RECENT, Cadence
from gradscope.lightning.resume import FORMAT, Memory, UnreadableStateError, memory_of, records_of, state_of
from gradscope.lightning.sinks import TensorBoardSink
from gradscope.probes.liveness import NEVER, LivenessProbe, _fired
from gradscope.records import Layer, Metric
from gradscope.transfer import Transfer
from tests.models import ANY_CHECKPOINT, Batch, Batches, Classifier, mlp, trainer

pytestmark = [
    # Batches are made of their number, which Lightning cannot know; and every checkpoint stays.
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:.*ckpt_path"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]


class ByStep(Classifier):
    """Sees at each batch what belongs to its number, so that a resumed fit sees what the first would have."""

    def batch(self) -> Batch:
        generator = torch.Generator().manual_seed(self.trainer.fit_loop.epoch_loop.total_batch_idx)
        inputs = torch.randn(16, 20, generator=generator)
        return inputs, torch.randint(0, 4, (16,), generator=generator)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        return super().training_step(self.batch(), batch_idx)


class Validated(ByStep):
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.net(batch[0])


class Overflows(ByStep):
    """Overflows at step 13: a GradScaler skips it."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        loss = super().training_step(batch, batch_idx)
        assert loss is not None
        return loss * (torch.inf if self.global_step == 13 else 1)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(20, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.first(x)))  # type: ignore[no-any-return]


def dead() -> nn.Module:
    net = mlp()
    nn.init.constant_(net.get_parameter("0.bias"), -100.0)
    return net


def fit(
    folder: Path,
    steps: int,
    checkpoint: Path | None = None,
    scope: GradScope | None = None,
    build: Callable[[], pl.LightningModule] | None = None,
    **of_trainer: Any,
) -> GradScope:
    """Fit for `steps` batches in all, and save a checkpoint after each into `folder`."""
    scope = scope or GradScope(summary=False)
    fit_with([scope, *of_trainer.pop("callbacks", ())], folder, steps, checkpoint, build or plain, **of_trainer)
    return scope


def fit_with(
    callbacks: Sequence[pl.Callback],
    folder: Path,
    steps: int,
    checkpoint: Path | None,
    build: Callable[[], pl.LightningModule],
    **of_trainer: Any,
) -> None:
    torch.manual_seed(0)
    model = build()
    keeper = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    options = {"max_epochs": -1, "max_steps": steps, "enable_checkpointing": True, **of_trainer}
    if "plugins" in options:
        options["plugins"] = options["plugins"]()
    trainer(*callbacks, keeper, **options).fit(model, Batches(), ckpt_path=checkpoint)


def saved(folder: Path, step: int) -> Path:
    return folder / f"step={step}.ckpt"


def state_in(checkpoint: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(checkpoint, weights_only=True)["callbacks"]["GradScope"]
    return state


def plain(net: Callable[[], nn.Module] = mlp, kind: type[Classifier] = ByStep) -> Classifier:
    return kind(net(), lr=0.01, optimizer=torch.optim.Adam)


def assert_same(one: Run, other: Run, exact: bool = True) -> None:
    """Of the step's globals a log, which is not `exact`, keeps float32."""
    assert one.steps.tolist() == other.steps.tolist()
    assert one.layers == other.layers
    assert one.metrics.keys() == other.metrics.keys()
    for name, values in one.metrics.items():
        np.testing.assert_array_equal(values, other.metrics[name], err_msg=name)
    for name, series in one.globals.items():
        np.testing.assert_allclose(series, other.globals[name], rtol=0 if exact else 1e-6, err_msg=name)
    assert (one.ledger, one.setup, one.origin, one.coverage) == (
        other.ledger,
        other.setup,
        other.origin,
        other.coverage,
    )
    assert one.overhead.records == other.overhead.records
    assert one.flights.keys() == other.flights.keys()
    for code, flight in one.flights.items():
        assert_same_flight(flight, other.flights[code])


def assert_same_flight(one: Flight, other: Flight) -> None:
    assert one.layers == other.layers
    assert one.steps.tolist() == other.steps.tolist()
    np.testing.assert_array_equal(one.loss, other.loss)
    np.testing.assert_allclose(one.grad_norm, other.grad_norm, rtol=1e-5)  # of which a log keeps six digits


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "gradscope"]


# ------------------------------------------------------------------ as if nothing had happened


def fp16() -> list[MixedPrecision]:
    return [MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", 2.0**10))]


MODES: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulation": {"accumulate_grad_batches": 2},
    "fp16": {"plugins": fp16, "build": partial(plain, kind=Overflows)},
    "selu": {"build": partial(plain, partial(mlp, nn.SELU, (20, 16, 16, 16, 4)))},
    "dead": {"build": partial(plain, dead)},
    "functional": {"build": partial(plain, Functional)},
    "two epochs": {"build": plain, "limit_train_batches": 6},
}


SLOW = ("selu", "dead", "functional", "two epochs")
"""Each of which takes more than a second, as do the others: some of each kind are enough at first."""


@pytest.mark.parametrize("mode", [pytest.param(m, marks=[pytest.mark.slow] if m in SLOW else []) for m in MODES])
def test_a_resumed_run_equals_the_uninterrupted_one(mode: str, tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", 34, **MODES[mode])
    assert list(whole.run.steps)[:10] == list(range(10))
    for step in (4, 15, 21):  # among the first records, between two, and right after one
        resumed = fit(tmp_path / "resumed", 34, saved(tmp_path / "whole", step), **MODES[mode])
        assert_same(resumed.run, whole.run)
        assert [str(finding) for finding in resumed.findings] == [str(finding) for finding in whole.findings]
    if mode in ("selu", "dead"):
        assert whole.findings or whole.run.setup.selu_weights, "or there was nothing to keep"
    if mode == "fp16":
        assert whole.run.ledger.skipped == 1


def test_a_run_that_is_resumed_again_and_again(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", 30, build=partial(plain, dead))
    checkpoint, scope = None, whole
    for number, step in enumerate((3, 11, 12, 24, 30)):
        scope = fit(tmp_path / f"{number}", step, checkpoint, build=partial(plain, dead))
        checkpoint = saved(tmp_path / f"{number}", step)
    assert_same(scope.run, whole.run)
    assert scope.run.overhead.fit_seconds > scope.run.overhead.gradscope_seconds > 0


def test_training_goes_on_as_without(tmp_path: Path) -> None:
    class Noisy(ByStep):
        def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
            return F.cross_entropy(self.net(batch[0] + torch.randn_like(batch[0])), batch[1])

    build = partial(plain, kind=Noisy)
    for name in ("with", "without"):
        for steps, checkpoint in ((12, None), (24, saved(tmp_path / name, 12))):
            scopes = [GradScope(summary=False)] if name == "with" else []
            fit_with(scopes, tmp_path / name, steps, checkpoint, build)
    ends = [torch.load(saved(tmp_path / name, 24), weights_only=True) for name in ("with", "without")]
    assert "GradScope" in ends[0]["callbacks"]
    assert "GradScope" not in ends[1]["callbacks"]
    for part in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(ends[0][part], ends[1][part], rtol=0, atol=0)


# ------------------------------------------------------------------ when a checkpoint is saved, and when it is read


class Saves(pl.Callback):
    """Saves a checkpoint at one `moment`, once `step` steps were made."""

    def __init__(self, moment: str, path: Path, step: int) -> None:
        setattr(self, moment, self.save)
        self.path, self.step = path, step

    def save(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step and not self.path.exists():
            trainer.save_checkpoint(self.path)


class Axis(pl.Callback):
    """Notes the number of each step, as on the x-axis of Lightning's loggers: it may skip one after a resumption."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.steps.append(trainer.fit_loop.epoch_loop._batches_that_stepped)


@pytest.mark.parametrize(
    "moment", ["on_train_batch_start", "on_train_batch_end", "on_validation_end", "on_train_epoch_end"]
)
def test_no_step_is_missing_or_twice_whenever_it_was_saved(moment: str, tmp_path: Path) -> None:
    path = tmp_path / "here.ckpt"
    options: dict[str, Any] = {"limit_train_batches": 6, "limit_val_batches": 1, "max_epochs": -1, "max_steps": 20}
    scope, resumed = (GradScope(every_n_steps=1, summary=False) for _ in range(2))
    trainer(scope, Saves(moment, path, 6), **options).fit(plain(kind=Validated), Batches(), Batches(number=1))
    axis = Axis()
    trainer(resumed, axis, **options).fit(plain(kind=Validated), Batches(), Batches(number=1), ckpt_path=path)
    assert scope.run.steps.tolist() == [*range(20)]
    assert resumed.run.steps.tolist() == [*range(6), *axis.steps]
    assert len(axis.steps) == 14
    assert resumed.run.ledger == scope.run.ledger


@pytest.mark.parametrize("moment", ["on_train_batch_start", "on_train_batch_end"])
def test_saved_between_micro_batches_the_step_is_taken_again(moment: str, tmp_path: Path) -> None:
    """After the last step but one batch of the next has been seen; Lightning keeps no gradients."""

    class SavesBetween(Saves):
        def save(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.fit_loop.epoch_loop.total_batch_idx == 16:
                super().save(trainer)

    options: dict[str, Any] = {"accumulate_grad_batches": 3, "max_epochs": -1, "max_steps": 12}
    saves, axis = SavesBetween(moment, tmp_path / "here.ckpt", 5), Axis()
    trainer(GradScope(every_n_steps=1, summary=False), saves, **options).fit(plain(), Batches(number=60))
    resumed = GradScope(every_n_steps=1, summary=False)
    trainer(resumed, axis, **options).fit(plain(), Batches(number=60), ckpt_path=saves.path)
    assert resumed.run.steps.tolist() == [*range(5), *dict.fromkeys(axis.steps)]
    assert resumed.run.ledger.steps == 12


class Fails(ByStep):
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        if self.global_step == 12:
            raise KeyError("the user's own mistake")
        return super().training_step(batch, batch_idx)


def test_saved_when_an_exception_ends_the_fit(tmp_path: Path) -> None:
    scope, axis = GradScope(every_n_steps=1, summary=False), Axis()
    rescue = OnExceptionCheckpoint(tmp_path, "rescue")
    with pytest.raises(KeyError):
        fit(tmp_path, 20, scope=scope, build=partial(plain, kind=Fails), callbacks=[rescue])
    scope = GradScope(every_n_steps=1, summary=False)
    resumed = fit(tmp_path / "on", 20, tmp_path / "rescue.ckpt", scope=scope, callbacks=[axis])
    assert resumed.run.steps.tolist() == [*range(12), *axis.steps]
    assert len(axis.steps) == 8
    units = state_in(saved(tmp_path / "on", 20))["units"]["LivenessProbe"]
    assert units.keys() == {"net.1", "net.3"}


def test_saved_when_the_fit_is_over(tmp_path: Path) -> None:
    torch.manual_seed(0)
    fitter = trainer(GradScope(summary=False), max_epochs=-1, max_steps=15)
    fitter.fit(plain(), Batches())
    fitter.save_checkpoint(tmp_path / "end.ckpt")
    assert state_in(tmp_path / "end.ckpt")["window"]["steps"] == [*range(15)]
    resumed = fit(tmp_path, 34, tmp_path / "end.ckpt")
    assert_same(resumed.run, fit(tmp_path / "whole", 34).run)


def test_records_on_their_way_from_the_device_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Transfer, "ready", lambda self: False)
    build = partial(plain, partial(mlp, nn.SELU))
    scope = fit(tmp_path, 7, build=build)
    state = state_in(saved(tmp_path, 5))
    assert state["record"]["steps"] == [*range(5)]
    assert state["status"]["setup"]["selu_weights"]
    assert scope.run.steps.tolist() == [*range(7)]


class RestoresLate(SingleDeviceStrategy):
    """Restores after `on_fit_start`, as strategies do that shard the model."""

    restore_checkpoint_after_setup = True


def test_a_strategy_may_restore_after_the_fit_began(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", 30, build=partial(plain, dead))
    late: dict[str, Any] = {"strategy": RestoresLate("cpu"), "build": partial(plain, dead)}
    resumed = fit(tmp_path / "late", 30, saved(tmp_path / "whole", 15), **late)
    assert_same(resumed.run, whole.run)


def test_without_a_checkpoint_a_second_fit_begins_anew(tmp_path: Path) -> None:
    scope = fit(tmp_path / "first", 12)
    assert fit(tmp_path / "second", 3, scope=scope).run.steps.tolist() == [0, 1, 2]
    assert scope.run.ledger.steps == 3


def test_what_a_test_loads_is_not_for_the_fit_after_it(tmp_path: Path) -> None:
    class Tested(ByStep):
        def test_step(self, batch: Batch, batch_idx: int) -> None:
            self.net(batch[0])

    fit(tmp_path / "first", 12, build=partial(plain, kind=Tested))
    scope, model = GradScope(summary=False), plain(kind=Tested)
    fitter = trainer(scope, max_steps=3)
    fitter.test(model, Batches(), ckpt_path=saved(tmp_path / "first", 12), verbose=False)
    fitter.fit(model, Batches())
    assert scope.run.steps.tolist() == [0, 1, 2]
    assert scope.run.ledger.steps == scope.run.overhead.records == 3


def test_what_is_loaded_is_not_lost_before_the_first_batch(state: dict[str, Any]) -> None:
    """A checkpoint may be saved before, when the sanity check of validation fails say."""
    scope = GradScope()
    assert scope.state_dict() == {}
    scope.load_state_dict(copy.deepcopy(state))
    assert scope.state_dict()["record"]["steps"] == state["record"]["steps"]
    assert scope.state_dict()["units"].keys() == state["units"].keys()


def test_a_tuner_that_goes_back_in_the_middle_of_a_fit_takes_nothing_away(tmp_path: Path) -> None:
    class GoesBack(pl.Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, GradScope) and trainer.current_epoch == 1:
                    callback.load_state_dict(copy.deepcopy(callback.state_dict()))

    scope = GradScope(every_n_steps=1, summary=False)
    fit(tmp_path, 14, scope=scope, callbacks=[GoesBack()], limit_train_batches=6)
    assert scope.run.steps.tolist() == [*range(14)]
    assert state_in(saved(tmp_path, 13))["record"]["steps"] == [*range(13)]


# ------------------------------------------------------------------ the state itself


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(value, dict | list) and value:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, key))
    else:
        yield path, value


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a fit with a finding, a flight and SELUs knows after 15 steps."""
    folder = tmp_path_factory.mktemp("state")
    fit(folder, 15, scope=GradScope(summary=False, budget=0.5), build=partial(plain, dead))
    return state_in(saved(folder, 15))


def test_the_state_is_plain_data(state: dict[str, Any]) -> None:
    kinds = {type(leaf) for _, leaf in leaves(state)}
    assert kinds <= {int, float, str, bool, type(None), Tensor, list, dict}
    assert Tensor in kinds
    assert all(type(key) is str for path, _ in leaves(state) for key in path if not isinstance(key, int))
    tensors = [leaf for _, leaf in leaves(state) if isinstance(leaf, Tensor)]
    assert all(t.untyped_storage().nbytes() == t.numel() * 4 and not t.requires_grad for t in tensors)


def test_it_comes_back_as_it_was(state: dict[str, Any]) -> None:
    again = state_of(memory_of(state))
    assert [path for path, _ in leaves(again)] == [path for path, _ in leaves(state)]
    for (path, one), (_, other) in zip(leaves(again), leaves(state), strict=True):
        if isinstance(one, Tensor):
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
        else:
            assert one == other or one != one, path  # NaN


def test_a_checkpoint_loads_without_gradscope(tmp_path: Path) -> None:
    fit(tmp_path, 12)
    script = """
import sys
sys.modules["gradscope"] = None
import torch
content = torch.load(sys.argv[1], weights_only=True)
print(len(content["callbacks"]["GradScope"]["record"]["steps"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(saved(tmp_path, 12))], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["11"]


def test_a_trainer_without_gradscope_goes_on_from_it(tmp_path: Path) -> None:
    fit(tmp_path, 12)
    fitter = trainer(max_epochs=-1, max_steps=14)
    fitter.fit(plain(), Batches(), ckpt_path=saved(tmp_path, 12))
    assert fitter.global_step == 14


def test_a_checkpoint_of_a_fit_without_gradscope_begins_a_record(tmp_path: Path) -> None:
    fitter = trainer(max_epochs=-1, max_steps=25)
    fitter.fit(plain(dead), Batches())
    fitter.save_checkpoint(tmp_path / "old.ckpt")
    scope = fit(tmp_path, 41, tmp_path / "old.ckpt", build=partial(plain, dead))
    assert scope.run.steps.tolist() == [25, 30, 40], "the first step of it, too"
    assert scope.findings == (), "a window that has not been seen in full tells of no dead unit"


def test_of_a_hundred_layers_it_keeps_little_and_the_findings(tmp_path: Path) -> None:
    layers = tuple(
        Layer(f"{i}", "ReLU", "rectifier") if i % 2 else Layer(f"{i}", "Linear", "linear") for i in range(100)
    )
    weights = ("grad_norm", "grad_norm_clipped", "no_gradient_fraction", "weight_norm", "update_ratio")
    outputs = ("act_mean", "act_var", "zero_fraction", "dead_fraction", "dying_fraction", "revived_fraction")
    odd = np.arange(100) % 2 == 1
    generator, history = np.random.default_rng(0), History()
    for step in range(0, 50_000, 10):
        values = generator.random((12, 100)).astype(np.float32)
        # Its gradient vanishes toward the input, and half of one layer's units are dead.
        values[0] *= np.logspace(-9, 0, 100)
        metrics = dict(zip((*weights, *outputs, "nonfinite"), values, strict=True))
        metrics |= {name: np.where(odd, np.nan, metrics[name]).astype(np.float32) for name in weights}
        metrics |= {name: np.where(odd, metrics[name], np.nan).astype(np.float32) for name in outputs}
        metrics["dead_fraction"][7] = 0.5 if step > 20_000 else 0.0
        metrics["nonfinite"][:] = 0
        totals = {"loss": 1.0 + generator.random(), "total_norm": float(np.nansum(metrics["grad_norm"]))}
        history.add(Record(step, float(step), layers, metrics, totals))
    columns = tuple(Metric(name, name, "value") for name in metrics)
    run = Run.from_records("fit", history.records, columns)
    units = {"LivenessProbe": {layer.name: torch.zeros(128) for layer in layers if layer.kind == "rectifier"}}
    path = tmp_path / "state"
    torch.save(state_of(Memory(run, silence=units)), path)
    assert path.stat().st_size < 1.2e6
    again = memory_of(torch.load(path, weights_only=True)).run
    assert len(run.steps) > 1000
    assert len(again.steps) <= 300
    before = gradscope.diagnose(run)
    assert {"vanishing_gradient", "dead_relu"} <= {finding.code for finding in before}
    assert gradscope.diagnose(Run.from_records("fit", records_of(again), columns)) == before


# ------------------------------------------------------------------ older, newer, damaged, of another model


def resumed_with(state: dict[str, Any], tmp_path: Path, **options: Any) -> GradScope:
    """Fit from step 15 to 21 with `state` in the checkpoint."""
    build = partial(plain, dead)
    path = saved(tmp_path, 15)
    if not path.exists():
        fit(tmp_path, 15, build=build)
    content = torch.load(path, weights_only=True)
    content["callbacks"]["GradScope"] = state
    torch.save(content, tmp_path / "changed.ckpt")
    scope = GradScope(**({"summary": False, "budget": 0.5} | options))
    fitter = trainer(scope, max_epochs=-1, max_steps=21)
    fitter.fit(build(), Batches(), ckpt_path=tmp_path / "changed.ckpt", **ANY_CHECKPOINT)
    assert fitter.global_step == 21
    assert "GradScope" not in scope.run.coverage.unseen, "it has switched itself off"
    return scope


def test_steps_that_are_still_to_come_are_forgotten(state: dict[str, Any], tmp_path: Path) -> None:
    """The number of a step may begin anew, as where a checkpoint of weights is joined with another state."""
    changed = copy.deepcopy(state)
    first = 20 - len(changed["record"]["steps"])
    changed["record"]["steps"] = [*range(first, 20)]
    scope = resumed_with(changed, tmp_path, budget=None, every_n_steps=4)
    assert scope.run.steps.tolist() == [*range(first, 15), 16, 20]


PARTS = ("record", "status", "cadence", "findings", "units", "window", "logs")


def test_of_an_older_state_everything_is_taken_that_is_there(
    state: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert set(PARTS) == state.keys() - {"format"}
    for part in PARTS:
        caplog.clear()
        older = {**copy.deepcopy(state), "format": 0}
        del older[part]
        scope = resumed_with(older, tmp_path, budget=None, every_n_steps=1)
        (said,) = [line for line in lines(caplog) if "checkpoint" in line]
        assert f"an older GradScope, without its {part}" in said
        assert (scope.run.steps[0] == 0) == (part != "record")
        assert scope.run.ledger.steps == (21 if part != "status" else 6)


def test_a_newer_state_is_refused_and_said_so(
    state: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scope = resumed_with({**state, "format": FORMAT + 1}, tmp_path)
    (said,) = [line for line in lines(caplog) if "checkpoint" in line]
    assert "newer GradScope (format 2, this one reads up to 1): update lightning-gradscope" in said
    assert scope.run.steps[0] >= 15


@pytest.mark.parametrize("damaged", ["text", [], {"format": "1"}, {"format": True}, {"format": None, "record": {}}])
def test_what_is_no_state_is_refused(damaged: Any) -> None:
    with pytest.raises(UnreadableStateError, match="damaged"):
        memory_of(damaged)


GARBAGE: tuple[Any, ...] = (None, "x", -1, 2**70, [], {}, [[1]], True, 0.5, torch.zeros(2, 3), np.zeros(2), object())


def test_whatever_a_state_holds_it_is_read_or_refused(state: dict[str, Any]) -> None:
    refused = 0
    source = random.Random(0)
    for path, _ in leaves(state):
        for garbage in source.sample(GARBAGE, 3):
            changed = copy.deepcopy(state)
            inner = changed
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = garbage
            try:
                memory = memory_of(changed)
            except UnreadableStateError:
                refused += 1
            else:
                state_of(memory)
                Cadence(budget=0.1).restore(memory.cadence)
    assert refused > 100


def test_a_fit_goes_on_with_garbage(state: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = random.Random(1)
    paths = [path for path, _ in leaves(state) if path[0] != "format"]
    for _ in range(8):
        changed: Any = copy.deepcopy(state)
        path, garbage = source.choice(paths), source.choice(GARBAGE[:-1])
        path = path[: source.randint(1, len(path))]
        inner = changed
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = garbage
        scope = resumed_with(changed, tmp_path, budget=None, every_n_steps=1)
        assert scope.run.steps.tolist()[-6:] == [*range(15, 21)]
        assert scope.run.steps[0] in (0, *range(15, 21))


def test_another_model_goes_on_with_the_layers_it_shares(
    state: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The rows are others and one layer is gone; what is dead stays dead under its name."""

    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            old = dead()
            self.extra = nn.ReLU()
            self.net = nn.Sequential(*list(old)[:4], nn.Identity(), nn.Linear(12, 4))  # type: ignore[call-overload]

        def forward(self, x: Tensor) -> Tensor:
            return self.net(self.extra(x))  # type: ignore[no-any-return]

    class Renamed(ByStep):
        def __init__(self) -> None:
            super().__init__(nn.Identity())
            other = Other()
            self.extra, self.net = other.extra, other.net

        def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
            inputs, labels = self.batch()
            return F.cross_entropy(self.net(self.extra(inputs)), labels)

        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            checkpoint["state_dict"] = self.state_dict()
            checkpoint["optimizer_states"] = []
            checkpoint["lr_schedulers"] = []

    fit(tmp_path, 15, build=partial(plain, dead), scope=GradScope(every_n_steps=1, summary=False))
    scope = GradScope(every_n_steps=1, summary=False)
    try:
        fitter = trainer(scope, max_epochs=-1, max_steps=17)
        fitter.fit(Renamed(), Batches(), ckpt_path=saved(tmp_path, 15))
    finally:
        said = [line for line in lines(caplog) if "goes on without" in line]
    assert said == ["GradScope: goes on without 1 layer of the checkpoint that this model does not have or watch."]
    names = [layer.name for layer in scope.run.layers]
    assert "net.4" not in names
    assert {"extra", "net.1", "net.5"} <= set(names)
    dead_fraction = scope.run.metric("dead_fraction")
    assert dead_fraction[-1, names.index("net.1")] == 1
    assert (scope.run.metric("dying_fraction")[-1, names.index("net.1")]) == 0
    assert scope.run.steps.tolist() == [*range(17)]


def test_units_are_gone_on_with_by_name_and_number() -> None:
    probe = LivenessProbe(Thresholds(dead_window=3))
    probe.remember({5: torch.tensor([0.0, 2.0, NEVER]), 2: torch.tensor([0.0]), 9: torch.tensor([1.0])})
    assert probe.memory()[9].tolist() == [1.0], "not seen yet, and not forgotten"
    units = probe._units
    _, (_, _, revived) = units.pass_batches([_fired({2: torch.tensor([-1.0, 1]), 5: torch.tensor([1.0, -1, 1])})])
    memory = probe.memory()
    assert memory[5].tolist() == [0.0, 3.0, 0.0]
    assert memory[2].tolist() == [NEVER, 0.0], "another number of units: another layer"
    assert not revived.any(), "what never fired was not alive once before"
    assert units.pass_batches([_fired({5: torch.tensor([-1.0, 1.0, -1.0])})])[1].tolist() == [[0], [2], [1]]
    probe.remember({5: torch.tensor([7.0, 7.0, 7.0])})
    assert probe.memory()[5].tolist() == [7.0, 7.0, 7.0]


def test_layers_that_are_not_watched_any_more_are_left_out(tmp_path: Path) -> None:
    fit(tmp_path, 12)
    scope = fit(tmp_path / "on", 21, saved(tmp_path, 12), scope=GradScope(summary=False, layers="net.0"))
    assert [layer.name for layer in scope.run.layers] == ["net.0"]
    assert scope.run.steps.tolist() == [*range(11), 20]


# ------------------------------------------------------------------ whose state it is


def test_the_key_is_the_same_for_whoever_attached_it(tmp_path: Path) -> None:
    fit(tmp_path / "attached", 12, scope=AttachedGradScope(summary=False))
    own = fit(tmp_path / "own", 21, saved(tmp_path / "attached", 12))
    again = fit(tmp_path / "again", 31, saved(tmp_path / "own", 21), scope=AttachedGradScope(summary=False))
    assert own.run.steps.tolist() == [*range(11), 20]
    assert again.run.steps.tolist() == [*range(11), 20, 30]


def test_one_that_steps_back_leaves_the_key(tmp_path: Path) -> None:
    own, attached = GradScope(summary=False), AttachedGradScope(summary=False)
    fit(tmp_path, 12, scope=own, callbacks=[attached])
    assert own.state_key == "GradScope"
    assert attached.state_key != "GradScope"
    content = torch.load(saved(tmp_path, 12), weights_only=True)["callbacks"]
    assert [key for key in content if "GradScope" in key] == ["GradScope"]


def test_of_two_in_one_trainer_the_first_leaves_its_state(tmp_path: Path) -> None:
    def two() -> list[GradScope]:
        return [GradScope(summary=False, layers=name) for name in ("net.0", "net.2")]

    one, other = two()
    fit(tmp_path, 12, scope=one, callbacks=[other])
    keys = torch.load(saved(tmp_path, 12), weights_only=True)["callbacks"]
    assert [key for key in keys if "GradScope" in key] == ["GradScope"]
    one, other = two()
    fit(tmp_path / "on", 21, saved(tmp_path, 12), scope=one, callbacks=[other])
    assert [layer.name for layer in one.run.layers] == ["net.0"]
    assert one.run.steps.tolist() == [*range(11), 20]
    assert other.run.steps.tolist() == []


def test_a_state_that_cannot_be_made_is_left_out_and_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(self: Actions) -> Mapping[str, Severity]:
        raise ArithmeticError("no")

    monkeypatch.setattr(Actions, "known", fails)
    fit(tmp_path, 2)
    assert "GradScope" not in torch.load(saved(tmp_path, 2), weights_only=True)["callbacks"]
    assert any("leaves nothing in the checkpoint after ArithmeticError: no" in line for line in lines(caplog))


# ------------------------------------------------------------------ no false alarm


def test_what_was_said_is_not_said_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    build = partial(plain, dead)
    with caplog.at_level(logging.WARNING, "gradscope"):
        fit(tmp_path, 15, build=build)
        assert sum("dead_relu" in line for line in lines(caplog)) == 1
        caplog.clear()
        resumed = fit(tmp_path / "on", 60, saved(tmp_path, 15), build=build)
    assert not any("dead_relu" in line for line in lines(caplog))
    assert "dead_relu" in {finding.code for finding in resumed.findings}


def test_a_fit_that_was_stopped_goes_on_when_it_is_resumed(tmp_path: Path) -> None:
    build = partial(plain, dead)
    stopped = fit(tmp_path, 40, scope=GradScope(summary=False, on_finding="stop"), build=build)
    assert stopped.run.stop is not None
    step = stopped.run.stop.step + 1
    resumed = fit(
        tmp_path / "on", 40, saved(tmp_path, step), scope=GradScope(summary=False, on_finding="stop"), build=build
    )
    assert resumed.run.ledger.steps == 40
    assert resumed.run.stop is None


def test_an_end_that_did_not_come_about_is_asked_for_again() -> None:
    finding = gradscope.Finding("dead_relu", Severity.CRITICAL, (), 0, 1, "Dead.", "Start anew.")
    actions = Actions(dict.fromkeys(Severity, Action.STOP), lambda _: None)
    actions.hear([finding], 3)
    assert actions.known() == {}
    ending = actions.agreed(None)
    assert ending is not None
    actions.carry_out(ending, 3)
    assert actions.known() == {"dead_relu": Severity.CRITICAL}
    again = Actions(dict.fromkeys(Severity, Action.STOP), lambda _: None)
    again.restore(actions.known())
    again.hear([finding], 4)
    assert again.agreed(None) is None


def test_a_fault_that_was_mended_before_the_resumption_is_none(tmp_path: Path) -> None:
    class Forgets(ByStep):
        forgets = True

        def configure_optimizers(self) -> Any:
            layers = [*self.net.children()]
            owned = layers[1:] if self.forgets else layers
            return torch.optim.SGD([p for layer in owned for p in layer.parameters()], lr=0.1)

        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            checkpoint["optimizer_states"] = [torch.optim.SGD(self.parameters(), lr=0.1).state_dict()]

    class Remembers(Forgets):
        forgets = False

    first = fit(tmp_path, 12, build=partial(plain, kind=Forgets))
    assert first.run.setup.in_no_optimizer == ("net.0",)
    resumed = fit(tmp_path / "on", 21, saved(tmp_path, 12), build=partial(plain, kind=Remembers))
    assert resumed.run.setup.in_no_optimizer == ()


def test_the_window_of_all_steps_goes_on(tmp_path: Path) -> None:
    class Explodes(ByStep):
        def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
            loss = super().training_step(batch, batch_idx)
            assert loss is not None
            return loss * (torch.nan if self.global_step == 23 else 1)

    build = partial(plain, kind=Explodes)
    whole = fit(tmp_path / "whole", 30, build=build)
    resumed = fit(tmp_path / "on", 30, saved(tmp_path / "whole", 20), build=build)
    (code,) = whole.run.flights
    assert code == "non_finite"
    assert min(whole.run.flights[code].steps) == 0
    assert_same(resumed.run, whole.run)


def test_windows_are_joined() -> None:
    def flight(steps: list[int], *layers: str) -> Flight:
        values = np.array([[float(step)] * len(layers) for step in steps], dtype=np.float32).reshape(
            len(steps), len(layers)
        )
        return Flight(np.array(steps, dtype=np.int64), np.array(steps, dtype=np.float64), layers, values)

    joined = _joined(flight([1, 2, 3, 4], "a", "b"), flight([4, 5], "b", "c"), 4)
    assert joined.steps.tolist() == [2, 3, 4, 5]
    assert joined.loss.tolist() == [2, 3, 4, 5]
    assert joined.layers == ("b", "c", "a")
    nan = np.nan
    np.testing.assert_array_equal(joined.grad_norm, [[2, nan, 2], [3, nan, 3], [4, 4, nan], [5, 5, nan]])
    assert_same_flight(_joined(flight([1], "a"), flight([]), 3), flight([1], "a"))


# ------------------------------------------------------------------ which steps are recorded


def test_the_interval_that_a_budget_chose_stays() -> None:
    cadence = Cadence(budget=0.02)
    for recorded, own in [(True, 0.1)] * 12 + [(False, 0.001)] * 12:
        cadence.took(recorded, 1.0, own)
    cadence.interval = cadence.affordable_interval()
    assert cadence.wants_review(30)
    resumed = Cadence(budget=0.02)
    resumed.restore(cadence.state())
    resumed.begin(40)
    assert resumed.interval == cadence.interval > 1
    assert resumed.affordable_interval() == cadence.affordable_interval()
    assert [step for step in range(40, 100) if resumed.wants_review(step)] == [60]


def test_an_interval_that_is_asked_for_now_counts() -> None:
    budget = Cadence(budget=0.02)
    budget.interval = 77
    by_hand = Cadence(5)
    by_hand.restore(budget.state())
    assert by_hand.interval == 5
    budget.restore(by_hand.state())
    assert budget.interval == 77


def test_no_step_of_a_resumed_fit_is_charged_with_the_time_before(
    state: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[bool, float, float]] = []
    monkeypatch.setattr(Cadence, "took", lambda self, *what: told.append(what))
    hour = copy.deepcopy(state)
    hour["status"]["overhead"] |= {"gradscope_seconds": 3600.0, "fit_seconds": 7200.0}
    scope = resumed_with(hour, tmp_path)
    assert len(told) == 6
    assert sum(own for _, _, own in told) < 600
    assert 3600 < scope.run.overhead.gradscope_seconds < 4200, "the run is charged with it"


def test_steps_that_a_budget_left_bare_stay_so(tmp_path: Path) -> None:
    assert "every step" in fit(tmp_path, 30, scope=GradScope(budget=1e-6, summary=False)).run.coverage.unseen
    resumed = fit(tmp_path, 36, saved(tmp_path, 30), GradScope(budget=1e-6, summary=False))  # the next review is at 48
    assert "every step" in resumed.run.coverage.unseen
    assert memory_of(state_in(saved(tmp_path, 36))).window is None
    assert resumed.run.ledger.steps == 36
    by_interval = fit(tmp_path, 36, saved(tmp_path, 30), GradScope(every_n_steps=5, summary=False))
    assert by_interval.run.coverage.unseen == {}


def test_a_new_budget_in_the_middle_waits_for_something_to_plan_by() -> None:
    cadence = Cadence(budget=0.02)
    cadence.begin(10_000)
    reviews = [step for step in range(10_000, 20_200) if cadence.wants_review(step)]
    assert reviews == [10_000 + RECENT, 2 * (10_000 + RECENT)]


def test_an_alarm_knows_the_losses_before() -> None:
    def record(step: int, loss: float) -> Record:
        return Record(step, float(step), (), {}, {"loss": loss, "total_norm": 1.0})

    cadence = Cadence()
    assert not any(cadence.alarm.hear(record(step, 1.0)) for step in range(6))
    resumed = Cadence()
    resumed.restore(cadence.state())
    assert resumed.alarm.hear(record(6, 4.0))
    assert not Cadence().alarm.hear(record(6, 4.0)), "nor does one without a past take fright"


@pytest.mark.slow
def test_two_processes_go_on_with_the_same_steps(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.lightning.resumed_on_two_ranks", str(tmp_path)]
    root = Path(__file__).parents[2]
    subprocess.run(command, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, timeout=120)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    before, after = first
    assert after["steps"][: len(before["steps"])] == before["steps"]
    assert after["steps"][-1] > 30
    assert (before["ledger"], after["ledger"]) == (30, 70)


# ------------------------------------------------------------------ the log


def logged(root: Path, version: str) -> TensorBoardLogger:
    return TensorBoardLogger(root, name="", version=version)


def test_in_the_same_log_the_abandoned_steps_are_gone(tmp_path: Path) -> None:
    build = partial(plain, dead)
    logs = tmp_path / "logs"
    # The first goes on to step 30 and records every third; what it did from 15 on is taken back.
    fit(tmp_path / "first", 31, scope=GradScope(every_n_steps=3, summary=False), build=build, logger=logged(logs, "a"))
    scope = GradScope(every_n_steps=7, summary=False)
    fit(tmp_path / "on", 23, saved(tmp_path / "first", 15), scope=scope, build=build, logger=logged(logs, "a"))
    read = gradscope.load(logs)["a"]
    assert read.steps.tolist() == scope.run.steps.tolist() == [*range(10), 12, 21]
    assert_same(read, scope.run, exact=False)
    assert gradscope.diagnose(read) == scope.findings


def test_a_log_of_its_own_is_whole(tmp_path: Path) -> None:
    build = partial(plain, partial(mlp, nn.SELU))
    first, logs = GradScope(summary=False), tmp_path / "logs"
    fit(tmp_path / "first", 31, scope=first, build=build, logger=logged(logs, "a"))
    scope = GradScope(summary=False)
    fit(tmp_path / "on", 52, saved(tmp_path / "first", 15), scope=scope, build=build, logger=logged(logs, "b"))
    read = gradscope.load(logs)
    assert read["a"].steps.tolist() == [*range(11), 20, 30]
    assert read["b"].steps.tolist() == [*range(11), 20, 30, 40, 50]
    assert_same(read["b"], scope.run, exact=False)
    assert gradscope.diagnose(read["b"]) == scope.findings
    np.testing.assert_array_equal(read["b"].wall_times[:11], read["a"].wall_times[:11])


def test_a_log_that_was_lost_is_whole_again(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    fit(tmp_path / "first", 15, logger=logged(logs, "a"))
    (log,) = (logs / "a").glob("events*")
    log.unlink()
    fit(tmp_path / "on", 21, saved(tmp_path / "first", 12), logger=logged(logs, "a"))
    assert gradscope.load(logs)["a"].steps.tolist() == [*range(11), 20]


def test_a_log_that_is_there_is_not_written_again(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    fit(tmp_path / "first", 12, logger=logged(logs, "a"))
    (first,) = (logs / "a").glob("events*")
    fit(tmp_path / "on", 21, saved(tmp_path / "first", 12), logger=logged(logs, "a"))
    (second,) = {*(logs / "a").glob("events*")} - {first}
    assert gradscope.load(second)["."].steps.tolist() == [20]


def test_the_first_record_brings_the_verdicts_of_the_resumed_run(tmp_path: Path) -> None:
    class Explodes(ByStep):
        sick = True

        def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
            loss = super().training_step(batch, batch_idx)
            assert loss is not None
            return loss * (torch.nan if self.global_step == 12 and self.sick else 1)

    class Sound(Explodes):
        sick = False

    logs = tmp_path / "logs"
    fit(tmp_path / "first", 20, build=partial(plain, kind=Explodes), logger=logged(logs, "a"))
    assert gradscope.load(logs)["a"].origin is not None

    class Looks(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step == 6:
                trainer.logger.experiment.flush()  # type: ignore[union-attr]
                self.run = gradscope.load(logs)["a"]

    looks = Looks()
    build = partial(plain, kind=Sound)
    fit(tmp_path / "on", 20, saved(tmp_path / "first", 5), build=build, logger=logged(logs, "a"), callbacks=[looks])
    assert looks.run.steps.tolist() == [*range(6)]
    assert looks.run.origin is None
    assert looks.run.flights == {}


def test_what_is_in_the_checkpoint_is_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed loses what it holds: whoever resumes in the same log does not write it again."""
    flushed = []

    def flush(sink: TensorBoardSink) -> None:
        sink._file_writer().flush()
        flushed.append(list(gradscope.load(tmp_path / "logs")["a"].steps))

    monkeypatch.setattr(TensorBoardSink, "flush", flush)
    fit(tmp_path, 4, logger=logged(tmp_path / "logs", "a"), log_every_n_steps=1000)
    assert flushed[:4] == [[*range(step)] for step in range(1, 5)]


def test_tensorboard_shows_the_same(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.context import RequestContext

    from gradscope.dashboard.provided_runs import ProvidedRuns

    build, logs = partial(plain, dead), tmp_path / "logs"
    fit(tmp_path / "first", 31, scope=GradScope(every_n_steps=3, summary=False), build=build, logger=logged(logs, "a"))
    scope = GradScope(every_n_steps=7, summary=False)
    fit(tmp_path / "on", 23, saved(tmp_path / "first", 15), scope=scope, build=build, logger=logged(logs, "a"))
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(logs))
    multiplexer.Reload()
    runs = ProvidedRuns(MultiplexerDataProvider(multiplexer, str(logs)), RequestContext(), "")
    assert runs.read(runs.runs()["a"]).steps.tolist() == [*range(10), 12, 21]
    assert runs.read_metric(runs.runs()["a"], "grad_norm", 100).run.steps.tolist() == [*range(10), 12, 21]


def test_without_tensors_nothing_is_written_of_it(tmp_path: Path) -> None:
    fit(tmp_path / "first", 12)
    scope = GradScope(summary=False, log=["scalars"])
    fit(tmp_path / "on", 21, saved(tmp_path / "first", 12), scope=scope, logger=logged(tmp_path / "logs", "a"))
    with pytest.raises(ValueError, match="none of its"):
        gradscope.load(tmp_path / "logs")
    assert [*(tmp_path / "logs" / "a").glob("events*")]
