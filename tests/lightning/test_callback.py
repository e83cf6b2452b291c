"""GradScope in real Trainers: what it must never do, when it measures, where it logs, and what it says to bad input."""

import copy
import csv
import gc
import io
import logging
import pickle
import random
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

import gradscope
from gradscope import GradScope, Thresholds
from gradscope.activations import Activation
from gradscope.probes.activity import ActivityProbe
from gradscope.probes.gradients import GradientProbe
from tests.models import Batch, Batches, Classifier, Validated, mlp, own_metrics, trainer


def fitted(model: pl.LightningModule, scope: GradScope, batches: int = 6, **options: Any) -> GradScope:
    trainer(scope, **options).fit(model, Batches(number=batches))
    return scope


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


# ------------------------------------------------------------------ training is the same


class Everything(Validated):
    """Dropout, batch norm, a random number in the step: whatever an observer could upset."""

    def __init__(self) -> None:
        net = nn.Sequential(
            nn.Linear(20, 16), nn.BatchNorm1d(16), nn.ReLU(inplace=True), nn.Dropout(0.3),
            nn.Linear(16, 16), nn.SELU(inplace=True), nn.AlphaDropout(0.1), nn.Linear(16, 4),
        )  # fmt: skip
        super().__init__(net, lr=0.01, optimizer=torch.optim.Adam)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        noise = torch.randn_like(batch[0]) * 0.1 * random.random() * np.random.rand()  # noqa: NPY002
        return super().training_step((batch[0] + noise, batch[1]), batch_idx)


def trained(*callbacks: pl.Callback, **options: Any) -> dict[str, Any]:
    pl.seed_everything(7, verbose=False)
    model = Everything()
    fitter = trainer(*callbacks, max_epochs=3, limit_val_batches=2, **options)
    fitter.fit(model, Batches(), Batches(seed=2))
    return {
        "weights": model.state_dict(),
        "optimizer": fitter.optimizers[0].state_dict(),
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": str(np.random.get_state()),  # noqa: NPY002
        "metrics": own_metrics(fitter),
    }


@pytest.mark.parametrize(
    "options",
    [{}, {"accumulate_grad_batches": 2}, {"gradient_clip_val": 0.1}, {"precision": "bf16-mixed"}],
    ids=["plain", "accumulation", "clipping", "bf16"],
)
def test_training_is_bitwise_the_same(options: dict[str, Any]) -> None:
    scope = GradScope(every_n_steps=1, summary=False)
    with_scope, without = trained(scope, **options), trained(**options)
    assert len(scope.run.steps) >= 9
    assert pickle.dumps(with_scope["python"]) == pickle.dumps(without["python"])
    assert with_scope["numpy"] == without["numpy"]
    for part in ("weights", "optimizer", "torch", "metrics"):
        torch.testing.assert_close(with_scope[part], without[part], rtol=0, atol=0)


def test_the_comparison_above_can_fail() -> None:
    class Disturber(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            torch.rand(1)

    with pytest.raises(AssertionError):
        torch.testing.assert_close(trained(Disturber())["weights"], trained()["weights"], rtol=0, atol=0)


# ------------------------------------------------------------------ nothing survives it


class Spy(pl.Callback):
    """Counts the hooks on the model at the end of each batch, and copies the model while a step is recorded."""

    def __init__(self) -> None:
        self.hooks: list[int] = []
        self.copies: list[nn.Module] = []

    def on_before_zero_grad(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        self.copies.append(pickle.loads(pickle.dumps(pl_module.net)))
        self.copies.append(copy.deepcopy(pl_module.net))  # type: ignore[arg-type]
        buffer = io.BytesIO()
        torch.save(pl_module.net, buffer)
        buffer.seek(0)
        self.copies.append(torch.load(buffer, weights_only=False))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.hooks.append(hooks(pl_module))


def test_hooks_are_on_the_model_only_within_a_recorded_step() -> None:
    model, spy, scope = Classifier(mlp()), Spy(), GradScope(summary=False)
    trainer(scope, spy).fit(model, Batches(number=14))
    assert spy.hooks == [0] * 14
    assert list(scope.run.steps) == [*range(11)]


def test_a_copy_of_the_model_made_in_a_recorded_step_is_inert() -> None:
    spy, scope = Spy(), GradScope(every_n_steps=1, summary=False)
    trainer(scope, spy).fit(Classifier(mlp()), Batches(number=2))
    before = scope.run.metric("act_mean").copy()
    x = torch.randn(3, 20)
    for twin in spy.copies:
        assert hooks(twin) > 0
        assert twin(x).shape == (3, 4)
        assert b"gradscope" not in pickle.dumps(twin)
    assert np.array_equal(before, scope.run.metric("act_mean"), equal_nan=True)


class Raises(Classifier):
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        if batch_idx == 3:
            raise KeyError("the user's own mistake")
        return super().training_step(batch, batch_idx)


class Interrupted(Classifier):
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        if batch_idx == 3:
            raise KeyboardInterrupt
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("kind", [Raises, Interrupted])
def test_nothing_stays_attached_after_an_exception_or_ctrl_c(kind: type[Classifier]) -> None:
    model, scope = kind(mlp()), GradScope(summary=False)
    fitter = trainer(scope)
    with pytest.raises((KeyError, SystemExit, KeyboardInterrupt)):
        fitter.fit(model, Batches())
    assert hooks(model) == 0
    assert not fitter.optimizers[0]._optimizer_step_post_hooks
    assert list(scope.run.steps) == [0, 1, 2]


def test_nothing_stays_attached_after_a_fit() -> None:
    model, scope = Validated(mlp()), GradScope(every_n_steps=1, summary=False)
    fitter = trainer(scope, limit_val_batches=2)
    fitter.fit(model, Batches(), Batches())
    fitter.validate(model, Batches(), verbose=False)
    assert hooks(model) == 0
    assert not fitter.optimizers[0]._optimizer_step_post_hooks
    assert list(scope.run.steps) == [*range(6)]


def test_validation_is_not_measured() -> None:
    class Shouts(Validated):
        def validation_step(self, batch: Batch, batch_idx: int) -> None:
            super().validation_step((batch[0] * 1e6, batch[1]), batch_idx)

    scope = GradScope(every_n_steps=1, summary=False)
    trainer(scope, limit_val_batches=3, val_check_interval=1).fit(Shouts(mlp(nn.SELU)), Batches(), Batches())
    assert np.nanmax(scope.run.metric("act_var")) < 100


def test_activation_checkpointing_is_counted_once() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = mlp()

        def forward(self, x: Tensor) -> Any:
            return torch.utils.checkpoint.checkpoint(self.inner, x, use_reentrant=False)

    scope = fitted(Classifier(Checkpointed()), GradScope(every_n_steps=1, summary=False))
    assert [layer.name for layer in scope.run.layers] == [f"net.inner.{i}" for i in range(5)]
    assert np.isfinite(scope.run.metric("act_mean")[:, 1]).all()


# ------------------------------------------------------------------ when it measures


def test_the_first_ten_steps_and_every_nth_are_recorded_across_epochs() -> None:
    scope = fitted(Classifier(mlp()), GradScope(every_n_steps=7, summary=False), max_epochs=5)
    assert list(scope.run.steps) == [*range(10), 14, 21, 28]


def test_steps_are_those_of_the_loggers_with_accumulation(tmp_path: Path) -> None:
    class Logs(Classifier):
        def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
            loss = super().training_step(batch, batch_idx)
            self.log("mine", batch_idx)
            return loss

    scope = GradScope(every_n_steps=1, summary=False, log=["scalars"])
    fitted(
        Logs(mlp()), scope, 8, accumulate_grad_batches=2, max_epochs=2, logger=CSVLogger(tmp_path, name="", version="")
    )
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    ours = [int(r["step"]) for r in rows if r["gradscope/total_norm"]]
    assert ours == list(scope.run.steps) == [*range(8)]
    assert {int(r["step"]) for r in rows if r["mine"]} == set(ours)


def test_manual_optimization_that_accumulates_is_recorded_when_it_steps() -> None:
    class EveryFourth(Classifier):
        def __init__(self) -> None:
            super().__init__(mlp())
            self.automatic_optimization = False

        def training_step(self, batch: Batch, batch_idx: int) -> None:
            loss = super().training_step(batch, batch_idx)
            assert loss is not None
            self.manual_backward(loss / 4)
            if batch_idx % 4 == 3:
                optimizer: Any = self.optimizers()
                optimizer.step()
                optimizer.zero_grad()

    run = fitted(EveryFourth(), GradScope(summary=False), 24).run
    assert list(run.steps) == [3, 7, 11, 23], "the record begun at step 20 ends with the optimizer's step"
    assert np.isfinite(run.metric("grad_norm")[:, 0]).all()


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")  # said once a process
def test_a_training_step_that_returns_none_leaves_no_gradient_and_no_alarm() -> None:
    class Skips(Classifier):
        def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
            return None if batch_idx == 2 else super().training_step(batch, batch_idx)

    scope = fitted(Skips(mlp()), GradScope(summary=False), 10)
    row = list(scope.run.steps).index(2)
    assert np.isnan(scope.run.metric("grad_norm")[row]).all()
    assert np.isnan(scope.run.series("loss")[row])
    assert scope.findings == ()


def test_a_frozen_layer_is_absent_and_no_fault() -> None:
    model = Classifier(mlp())
    model.net.get_submodule("0").requires_grad_(False)
    scope = fitted(model, GradScope(summary=False))
    assert np.isnan(scope.run.metric("grad_norm")[:, 0]).all()
    assert np.isnan(scope.run.metric("no_gradient_fraction")[:, 0]).all()
    assert "no_gradient" not in {f.code for f in scope.findings}


def test_a_layer_that_is_never_used_is_found() -> None:
    model = Classifier(mlp())
    model.spare = nn.Linear(3, 3)
    finding = next(f for f in fitted(model, GradScope(summary=False)).findings if f.code == "no_gradient")
    assert finding.layers == ("spare",)


def test_dead_dying_and_revived_are_told_apart() -> None:
    class Gate(Classifier):
        """A net of four ReLU units whose biases the test moves: -100 silences a unit."""

        script = torch.tensor([[0, -100, 0, -100], [0, -100, -100, -100], [0, -100, -100, 100.0]])

        def __init__(self) -> None:
            super().__init__(nn.Sequential(nn.Linear(20, 4), nn.ReLU(), nn.Linear(4, 4)), lr=0.0)

        def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
            with torch.no_grad():
                self.net.get_parameter("0.bias").copy_(self.script[min(batch_idx // 2, 2)])

    thresholds = Thresholds(dead_window=3)
    run = fitted(Gate(), GradScope(summary=False, thresholds=thresholds), 7).run
    layer = next(i for i, row in enumerate(run.layers) if row.type == "ReLU")
    assert run.metric("dead_fraction")[:, layer].tolist() == [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    assert run.metric("dying_fraction")[:, layer].tolist() == [0, 0, 0.25, 0.25, 0, 0, 0]
    assert run.metric("revived_fraction")[:, layer].tolist() == [0, 0, 0, 0, 0, 0, 0], "never alive before"


def test_a_unit_that_comes_back_is_revived_once() -> None:
    class Sleeper(Classifier):
        def __init__(self) -> None:
            super().__init__(nn.Sequential(nn.Linear(20, 2), nn.ReLU(), nn.Linear(2, 4)), lr=0.0)

        def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
            with torch.no_grad():
                self.net.get_parameter("0.bias")[0] = -100.0 if 1 <= batch_idx < 5 else 100.0

    run = fitted(Sleeper(), GradScope(summary=False, thresholds=Thresholds(dead_window=3)), 8).run
    assert run.metric("dead_fraction")[:, 1].tolist() == [0, 0, 0, 0.5, 0.5, 0, 0, 0]
    assert run.metric("dying_fraction")[:, 1].tolist() == [0, 0.5, 0.5, 0, 0, 0, 0, 0]
    assert run.metric("revived_fraction")[:, 1].tolist() == [0, 0, 0, 0, 0, 0.5, 0, 0]


# ------------------------------------------------------------------ whatever fails inside


def fail(*_: Any, **__: Any) -> Any:
    raise RuntimeError("broken on purpose")


def test_a_probe_that_fails_at_a_layer_is_off_there_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    healthy = ActivityProbe.observe

    def observe(
        probe: ActivityProbe, row: int, activation: Activation, output: Tensor, producer: nn.Module | None
    ) -> None:
        (fail if row == 1 else healthy)(probe, row, activation, output, producer)

    monkeypatch.setattr(ActivityProbe, "observe", observe)
    scope = fitted(Classifier(mlp()), GradScope(every_n_steps=1, summary=False))
    reason = "switched off after RuntimeError: broken on purpose"
    assert scope.run.coverage.unseen == {"ActivityProbe at net.1": reason}
    assert [r.getMessage() for r in caplog.records] == [
        f"GradScope: ActivityProbe at net.1 {reason}. Everything else goes on."
    ]
    assert np.isnan(scope.run.metric("act_mean")[:, 1]).all()
    assert np.isfinite(scope.run.metric("act_mean")[:, 3]).all()
    assert np.isfinite(scope.run.metric("dead_fraction")[:, 1]).all()
    assert np.isfinite(scope.run.metric("grad_norm")[:, 0]).all()


@pytest.mark.parametrize("method", ["before_optimizer_step", "after_optimizer_step", "finish"])
def test_a_probe_that_fails_is_off_and_the_others_go_on(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GradientProbe, method, fail)
    scope = fitted(Classifier(mlp()), GradScope(every_n_steps=1, summary=False))
    assert list(scope.run.coverage.unseen) == ["GradientProbe"]
    assert np.isfinite(scope.run.metric("update_ratio")[1:, 0]).all()


@pytest.mark.parametrize("method", ["begin", "begin_batch", "end_batch", "end", "poll", "before_optimizer_step"])
def test_a_failure_of_the_recorder_never_reaches_the_training(
    method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gradscope.recorder.Recorder." + method, fail)
    model = Classifier(mlp())
    scope = fitted(model, GradScope(every_n_steps=1, summary=False), accumulate_grad_batches=2)
    assert hooks(model) == 0
    assert sum("switched itself off" in r.getMessage() for r in caplog.records) == 1
    assert "broken on purpose" in scope.run.coverage.unseen["GradScope"]


def test_a_handler_that_raises_does_not_end_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusal(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            raise RuntimeError("no warnings please")

    def fail(probe: ActivityProbe) -> None:
        raise ValueError("inside")

    monkeypatch.setattr("gradscope.lightning.callback.Recorder.begin", fail)
    monkeypatch.setattr(logging.getLogger("gradscope"), "filters", [Refusal()])
    scope = fitted(Classifier(mlp()), GradScope(summary=False))
    assert "switched itself off" in scope.run.coverage.unseen["GradScope"]


def test_a_fit_of_no_epochs_keeps_no_hold_of_the_model() -> None:
    model = Classifier(mlp())
    scope = fitted(model, GradScope(summary=False), max_epochs=0)
    held = weakref.ref(model.net)
    del model
    gc.collect()
    assert held() is None
    assert len(scope.run.steps) == 0


def test_a_logger_that_fails_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(CSVLogger):
        log_metrics = fail

    loggers = [Broken(tmp_path / "a"), TensorBoardLogger(tmp_path / "b", name="", version="")]
    scope = fitted(Classifier(mlp()), GradScope(every_n_steps=1, summary=False), logger=loggers)
    assert sum("no longer writes to Broken" in r.getMessage() for r in caplog.records) == 1
    assert len(gradscope.load(tmp_path / "b")["."].steps) == len(scope.run.steps) == 6


def test_what_takes_a_second_at_the_end_costs_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradscope.lightning.callback.flush", lambda trainer: time.sleep(1))
    scope = fitted(Classifier(mlp()), GradScope(summary=False))
    assert 1 < scope.run.overhead.gradscope_seconds < 2


# ------------------------------------------------------------------ where it logs


def test_a_log_read_back_is_the_run(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="", version="")
    scope = GradScope(every_n_steps=1, summary=False, thresholds=Thresholds(dead_fraction=0.7))
    fitted(Classifier(mlp()), scope, logger=logger)
    loaded = gradscope.load(tmp_path)["."]
    assert loaded.layers == scope.run.layers
    assert loaded.columns == scope.run.columns
    assert loaded.thresholds == scope.thresholds
    assert loaded.overhead.records == 6
    assert 0 < loaded.overhead.gradscope_seconds < loaded.overhead.fit_seconds
    assert list(loaded.steps) == list(scope.run.steps)
    assert list(loaded.wall_times) == list(scope.run.wall_times)
    for name, values in scope.run.metrics.items():
        np.testing.assert_array_equal(loaded.metrics[name], values, err_msg=name)
    for name, series in scope.run.globals.items():
        np.testing.assert_allclose(loaded.globals[name], series, rtol=1e-6, err_msg=name)
    assert len(list(tmp_path.glob("*tfevents*"))) == 1, "all in the logger's own file"


@pytest.mark.parametrize("logger", [True, False, "csv", "both"])
def test_works_with_every_logger_or_none(logger: Any, tmp_path: Path) -> None:
    loggers: Any = logger
    if logger == "csv":
        loggers = CSVLogger(tmp_path)
    elif logger == "both":
        loggers = [TensorBoardLogger(tmp_path, name="t"), CSVLogger(tmp_path, name="c")]
    scope = fitted(Classifier(mlp()), GradScope(summary=False), logger=loggers, default_root_dir=tmp_path)
    assert len(scope.run.steps) == 6
    assert scope.run.coverage.unseen == {}
    tables = [path.read_text().splitlines()[0] for path in tmp_path.rglob("metrics.csv")]
    assert len(tables) == (logger in ("csv", "both"))
    assert all("gradscope/grad_norm/median" in header for header in tables)


def test_verdicts_are_written_on_the_way_and_the_picture_at_the_end(tmp_path: Path) -> None:
    fitted(Classifier(mlp()), GradScope(summary=False), 30, logger=TensorBoardLogger(tmp_path, name="", version=""))
    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0}).Reload()
    assert [e.step for e in events.Tensors("gradscope/heat_map/grad_norm")] == [20]
    assert [e.step for e in events.Tensors("gradscope/verdict")] == [9, 20]


def test_only_rank_zero_writes_and_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pl.Trainer, "is_global_zero", property(lambda trainer: False))
    scope = fitted(Classifier(mlp()), GradScope(), logger=CSVLogger(tmp_path, name="", version=""))
    assert len(scope.run.steps) == 6, "every rank measures"
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "metrics.csv").exists()


def test_fast_dev_run_and_no_log() -> None:
    scope = fitted(Classifier(mlp()), GradScope(log=False, summary=False), fast_dev_run=2)
    assert list(scope.run.steps) == [0, 1]


def test_the_summary_is_printed_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    fitted(Classifier(mlp()), GradScope())
    out = capsys.readouterr().out
    assert "net.0" in out
    assert "grad" in out
    fitted(Classifier(mlp()), GradScope(summary=False))
    assert capsys.readouterr().out == ""


def test_memory_is_bounded_and_keeps_the_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradscope.history.LIMIT", 40)
    scope = fitted(Classifier(mlp()), GradScope(every_n_steps=1, summary=False), 300)
    steps = list(scope.run.steps)
    assert steps[:10] == [*range(10)]
    assert steps[-1] == 299
    assert 20 <= len(steps) <= 40
    assert scope.run.overhead.records == 300


# ------------------------------------------------------------------ modes that only have to survive here


def test_several_fits_with_one_gradscope_start_over() -> None:
    scope = GradScope(summary=False)
    fitted(Classifier(mlp()), scope, 3)
    fitted(Classifier(mlp(nn.SELU)), scope, 5)
    assert list(scope.run.steps) == [*range(5)]
    assert {layer.type for layer in scope.run.layers} == {"Linear", "SELU"}


def test_before_a_fit_there_is_nothing() -> None:
    scope = GradScope()
    assert scope.findings == ()
    assert len(scope.run.steps) == 0


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"every_n_steps": 0}, ValueError, r"`every_n_steps` must be at least 1, got 0"),
        ({"every_n_steps": 2.5}, TypeError, r"`every_n_steps` must be an integer, got 2\.5"),
        ({"every_n_steps": True}, TypeError, r"`every_n_steps` must be an integer, got True"),
        ({"layers": []}, TypeError, r"`layers` must be a glob pattern or several, got \[\]"),
        ({"layers": ["a", 3]}, TypeError, r"`layers` must be a glob pattern or several"),
        ({"layers": "!"}, TypeError, r"`layers` must be a glob pattern or several, got '!'"),
        ({"thresholds": 0.5}, TypeError, r"`thresholds` must be a gradscope\.Thresholds, got 0\.5"),
        ({"log": "tensors"}, TypeError, r"`log` must be True, False or a collection of tensors, .*got 'tensors'"),
        ({"log": ["scalers"]}, ValueError, r"`log` must hold some of tensors, .*got 'scalers'"),
        ({"summary": "no"}, TypeError, r"`summary` must be True or False, got 'no'"),
        ({"every_steps": 5}, TypeError, r"unexpected keyword argument 'every_steps'"),
    ],
)
def test_options_are_validated(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        GradScope(**options)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"dead_fraction": 0}, r"`dead_fraction` must be a number in \(0, 1\], got 0"),
        ({"dead_window": 1.5}, r"`dead_window` must be an integer of at least 1, got 1\.5"),
        ({"selu_mean": (1, -1)}, r"`selu_mean` must be a pair \(low, high\) with low < high, got \(1, -1\)"),
        ({"exploding_ratio": 0.1}, r"`exploding_ratio` must be a number of at least 1, got 0\.1"),
        ({"dead_fraction": "a lot"}, r"`dead_fraction` must be a number in \(0, 1\], got 'a lot'"),
        ({"selu_variance": 1.5}, r"`selu_variance` must be a pair \(low, high\) with low < high, got 1\.5"),
        ({"minimum_records": True}, r"`minimum_records` must be an integer of at least 1, got True"),
    ],
)
def test_thresholds_are_validated(field: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Thresholds(**field)


class NoParameters(pl.LightningModule):
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return (batch[0].sum() * torch.ones((), requires_grad=True)).sum()

    def configure_optimizers(self) -> None:
        return None


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (
            lambda: Classifier(mlp()),
            {"layers": ["net.*", "encodr.*"]},
            "`layers` pattern 'encodr.*' matches none of 5 layers, such as 'net.0'",
        ),
        (
            lambda: Classifier(nn.Linear(20, 4)),
            {},
            "found no activation modules, so only gradients and weights are measured",
        ),
        (lambda: Classifier(mlp()), {"layers": "!*"}, "watches no layer: `layers` excludes all 5"),
        (NoParameters, {}, "found nothing to watch: the model has no parameters and no activation modules"),
    ],
    ids=["pattern", "no activations", "all excluded", "no parameters"],
)
@pytest.mark.filterwarnings("ignore:`LightningModule.configure_optimizers` returned `None`")
def test_a_model_that_cannot_be_watched_is_told_in_one_line(
    model: Any, options: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        scope = fitted(model(), GradScope(**options), 3)
    (record,) = [r for r in caplog.records if r.name == "gradscope"]
    assert message in record.getMessage()
    assert "\n" not in record.getMessage()
    assert scope.run.coverage.unseen == {}


def test_a_pattern_leaves_the_totals_whole() -> None:
    torch.manual_seed(3)
    every = fitted(Classifier(mlp()), GradScope(summary=False)).run
    torch.manual_seed(3)
    some = fitted(Classifier(mlp()), GradScope(summary=False, layers="net.4")).run
    assert [layer.name for layer in some.layers] == ["net.4"]
    np.testing.assert_array_equal(some.series("total_norm"), every.series("total_norm"))
    np.testing.assert_array_equal(some.metric("grad_norm")[:, 0], every.metric("grad_norm")[:, 4])


def test_overrides_on_the_instance_count_as_code_of_the_users() -> None:
    model = Classifier(mlp())

    def halve(optimizer: Any) -> None:
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad.data.mul_(0.5)

    model.on_before_optimizer_step = halve  # type: ignore[method-assign]
    run = fitted(model, GradScope(every_n_steps=1, summary=False)).run
    np.testing.assert_allclose(run.series("clip_coefficient"), 0.5, rtol=1e-6)


def test_another_default_dtype_changes_nothing() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        scope = GradScope(every_n_steps=1, summary=False)
        batches = Batches()
        batches.batches = [(x.double(), y) for x, y in batches.batches]
        trainer(scope).fit(Classifier(mlp()), batches)
    finally:
        torch.set_default_dtype(torch.float32)
    assert scope.run.coverage.unseen == {}
    assert np.isfinite(scope.run.metric("grad_norm")[:, scope.run.rows("linear")]).all()


def test_an_optimizer_that_is_none_of_torchs_is_measured() -> None:
    class Foreign:
        """What Lightning takes for an optimizer."""

        def __init__(self, parameters: Any, lr: float) -> None:
            self.inner = torch.optim.SGD(parameters, lr=lr)
            self.param_groups, self.state, self.defaults = (
                self.inner.param_groups,
                self.inner.state,
                self.inner.defaults,
            )
            self.step, self.zero_grad = self.inner.step, self.inner.zero_grad
            self.state_dict, self.load_state_dict = self.inner.state_dict, self.inner.load_state_dict

    scope = fitted(Classifier(mlp(), optimizer=Foreign), GradScope(every_n_steps=1, summary=False))
    assert scope.run.coverage.unseen == {}
    assert len(scope.run.steps) == 6
    assert (scope.run.ledger.steps, scope.run.ledger.skipped) == (6, 0)
    assert (scope.run.series("skipped") == 0).all()
    for metric in ("grad_norm", "grad_norm_clipped", "update_ratio"):
        assert np.isfinite(scope.run.metric(metric)[:, scope.run.rows("linear")]).all(), metric
