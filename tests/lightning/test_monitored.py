"""A few aggregates among a Trainer's `callback_metrics`: for EarlyStopping, ModelCheckpoint, schedulers and bars."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar, TQDMProgressBar
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor

from gradscope import GradScope, Severity
from gradscope.lightning.monitored import MONITORED, Monitored
from gradscope.records import Layer, Metric, Record
from tests.lightning.test_actions import finding, sick
from tests.models import Batch, Batches, Classifier, Validated, mlp, own_metrics, trainer

TOTAL, UPDATES, DEAD, SATURATED, CRITICAL = MONITORED
COLUMNS = (
    Metric("update_ratio", "", "ratio"), Metric("dead_fraction", "", "fraction"),
    Metric("saturated_fraction", "", "fraction"), Metric("grad_norm", "", "L2 norm"),
)  # fmt: skip
LAYERS = tuple(Layer(str(i), "ReLU", "rectifier") for i in range(3))


def record(step: int, total: float | None = None, skipped: float = 0, **metrics: list[float]) -> Record:
    values = {name: np.array(row, dtype=np.float32) for name, row in metrics.items()}
    return Record(step, 0.0, LAYERS, values, {"skipped": skipped} | ({} if total is None else {"total_norm": total}))


def scope(**options: Any) -> GradScope:
    return GradScope(summary=False, **{"every_n_steps": 1, **options})


def ours(fitter: pl.Trainer) -> dict[str, float]:
    return {name: value.item() for name, value in fitter.callback_metrics.items() if name.startswith("gradscope/")}


class Looks(pl.Callback):
    """Notes what there is to monitor, wherever others look."""

    def __init__(self) -> None:
        self.seen: dict[str, list[dict[str, float]]] = {}

    def look(self, when: str, fitter: pl.Trainer) -> None:
        self.seen.setdefault(when, []).append(ours(fitter))

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.look("batch", trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.look("epoch", trainer)

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.look("sanity" if trainer.sanity_checking else "validation", trainer)


# ------------------------------------------------------------------ which numbers


def shown(monitored: Monitored) -> dict[str, float]:
    fitter = trainer()
    monitored.show(fitter, looked_at=False)
    return ours(fitter)


def test_the_newest_of_each_that_was_measured() -> None:
    monitored = Monitored(COLUMNS)
    assert shown(monitored) == {CRITICAL: 0}
    monitored.hear(record(0, 3.0, update_ratio=[1, 2, 9], dead_fraction=[0, 0.5, math.nan]))
    assert shown(monitored) == {CRITICAL: 0, TOTAL: 3, UPDATES: 2, DEAD: 0.5}
    monitored.hear(record(1, update_ratio=[math.nan] * 3, dead_fraction=[0.25, 0, 0], saturated_fraction=[0, 1, 0]))
    assert shown(monitored) == {CRITICAL: 0, TOTAL: 3, UPDATES: 2, DEAD: 0.25, SATURATED: 1}
    monitored.judge([finding("a"), finding("b", Severity.CRITICAL), finding("c", Severity.CRITICAL)])
    assert shown(monitored)[CRITICAL] == 2
    monitored.judge([])
    assert shown(monitored)[CRITICAL] == 0


def test_a_skipped_step_is_no_sign_and_a_nan_is() -> None:
    monitored = Monitored(COLUMNS)
    monitored.hear(record(0, 3.0))
    monitored.hear(record(1, math.inf, skipped=1))
    assert shown(monitored)[TOTAL] == 3
    monitored.hear(record(2, math.nan))
    assert math.isnan(shown(monitored)[TOTAL])


def test_what_will_not_be_measured_any_more_is_not_absent() -> None:
    monitored = Monitored(COLUMNS)
    monitored.hear(record(0, 3.0))
    assert shown(monitored).keys() != set(MONITORED)
    monitored.fail()
    values = shown(monitored)
    assert values.keys() == set(MONITORED)
    assert (values[TOTAL], values[CRITICAL]) == (3, 0)
    assert math.isnan(values[DEAD])


def test_a_failure_behind_the_first_numbers_leaves_none_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(run: Any) -> Any:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr("gradscope.lightning.callback.diagnose", fail)
    watch, looks = scope(), Looks()
    trainer(watch, looks).fit(Classifier(mlp()), Batches(14))
    assert "broken on purpose" in watch.run.coverage.unseen["GradScope"]
    assert looks.seen["batch"][0].keys() != set(MONITORED)
    assert looks.seen["batch"][-1].keys() == set(MONITORED)


def test_what_is_written_is_what_was_recorded() -> None:
    watch, looks = scope(every_n_steps=4), Looks()
    fitter = trainer(looks, watch, max_epochs=2, limit_val_batches=1, val_check_interval=3)
    fitter.fit(Validated(mlp()), Batches(9), Batches(2))
    run, rectifiers = watch.run, watch.run.rows("rectifier")
    assert list(run.steps) == [*range(10), 12, 16]
    wanted = {
        int(step): (run.series("total_norm")[s], run.metric("dead_fraction")[s, rectifiers].max())
        for s, step in enumerate(run.steps)
    }

    def at(when: str, since: int = 0) -> list[tuple[float, float]]:
        return [(values[TOTAL], values[DEAD]) for values in looks.seen[when][since:]]

    assert looks.seen["sanity"] == [{}]
    np.testing.assert_allclose(at("epoch"), [wanted[8], wanted[16]], rtol=1e-6)
    np.testing.assert_allclose(at("validation"), [wanted[s] for s in (2, 5, 8, 9, 12, 16)], rtol=1e-6)
    # It looks before GradScope does: at what the batch before has left.
    np.testing.assert_allclose(at("batch", 1), [wanted[s] for s in (*range(10), *[9] * 2, *[12] * 4, 16)], rtol=1e-6)
    assert looks.seen["batch"][0] == {}
    assert ours(fitter)[TOTAL] == pytest.approx(wanted[16][0]), "also after the fit"
    assert own_metrics(fitter).keys() == {"val_loss"}


def test_the_user_s_own_number_of_that_name_stays() -> None:
    class Logs(Classifier):
        def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
            self.log(TOTAL, 77.0)
            return super().training_step(batch, batch_idx)

    fitter = trainer(scope())
    fitter.fit(Logs(mlp()), Batches(3))
    looks = Looks()
    again = trainer(scope(), looks)
    again.fit(Logs(mlp()), Batches(3))
    assert [values[TOTAL] for values in looks.seen["batch"]] == [77.0] * 3


def test_validation_by_itself_shows_nothing() -> None:
    watch, looks = scope(), Looks()
    fitter, model = trainer(watch, looks, limit_val_batches=1), Validated(mlp())
    fitter.fit(model, Batches(3), Batches(1))
    fitter.validate(model, Batches(1), verbose=False)
    assert looks.seen["validation"][-1] == {}
    assert ours(fitter) == {}


# ------------------------------------------------------------------ who monitors


class Steady(Classifier):
    """A net whose gradients are those of its `norms`, one for each epoch."""

    def __init__(self, *norms: float) -> None:
        super().__init__(mlp(), lr=0.0)
        self.norms = norms

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        weights = torch.cat([p.flatten() for p in self.parameters()])
        return weights[0] * self.norms[self.current_epoch]


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("interval", [1, 100])
def test_early_stopping_sees_the_last_record_at_the_end_of_an_epoch(first: bool, interval: int) -> None:
    stopping = EarlyStopping(TOTAL, patience=2)
    watch = scope(every_n_steps=interval)
    callbacks = [watch, stopping] if first else [stopping, watch]
    fitter = trainer(*callbacks, max_epochs=9)
    fitter.fit(Steady(*[5.0, 4, 3, 3.5, 1, 1, 1, 1, 1]), Batches(3))
    # The first ten steps are recorded in any case, the last of them in epoch 3.
    assert (float(stopping.best_score), stopping.stopped_epoch) == ((1.0, 6) if interval == 1 else (3.0, 4))
    assert fitter.current_epoch == stopping.stopped_epoch + 1


def test_early_stopping_ends_a_fit_that_has_a_critical_finding() -> None:
    stopping = EarlyStopping(CRITICAL, patience=99, divergence_threshold=0.5)
    fitter = trainer(stopping, scope(on_finding="ignore"), max_epochs=9)
    fitter.fit(sick(), Batches(6))
    assert (stopping.stopped_epoch, fitter.global_step) == (1, 12), "found with the tenth record"


def test_a_checkpoint_is_kept_of_the_smallest_norm(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(tmp_path, filename="{step}", monitor=TOTAL, every_n_train_steps=1, save_top_k=2)
    watch = scope()
    trainer(checkpoint, watch, enable_checkpointing=True).fit(Classifier(mlp()), Batches(6))
    norms = watch.run.series("total_norm")
    smallest = np.sort(norms.astype(np.float32))[:2]
    assert sorted(value.item() for value in checkpoint.best_k_models.values()) == list(smallest)
    assert checkpoint.best_model_path.endswith(f"step={int(np.argmin(norms)) + 1}.ckpt")


def test_a_learning_rate_schedule_goes_by_the_norm() -> None:
    class Plateau(Steady):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
            schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": TOTAL}}

    fitter = trainer(scope(), max_epochs=4)
    fitter.fit(Plateau(3, 2, 2.5, 1), Batches(2))
    assert fitter.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1), "reduced once"


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: EarlyStopping("gradscope/total_nrom"),
        lambda folder: ModelCheckpoint(folder, monitor="gradscope/total_nrom"),
    ],
)
def test_a_name_that_does_not_exist_is_answered_with_those_that_do(make: Any, tmp_path: Path) -> None:
    fitter = trainer(make(tmp_path), scope(), enable_checkpointing=True)
    # ModelCheckpoint raises or warns, according to Lightning's version.
    with pytest.raises(
        (RuntimeError, MisconfigurationException, UserWarning),
        match=r"total_nrom(.|\n)*gradscope/critical_findings(.|\n)*gradscope/total_norm",
    ):
        fitter.fit(Classifier(mlp()), Batches(3))


@pytest.mark.parametrize("kind", [TQDMProgressBar, RichProgressBar])
def test_a_bar_can_show_them(kind: Any, capsys: pytest.CaptureFixture[str]) -> None:
    class Bar(kind):  # type: ignore[misc]  # a parameter
        shown: list[Any] = []  # noqa: RUF012

        def get_metrics(self, trainer: pl.Trainer, model: pl.LightningModule) -> dict[str, Any]:
            norm = trainer.callback_metrics.get(TOTAL)
            items: dict[str, Any] = super().get_metrics(trainer, model)
            self.shown.append((dict(items), norm))
            return items | ({} if norm is None else {"norm": norm.item()})

    bar, watch = Bar(refresh_rate=1), scope()
    trainer(watch, bar, enable_progress_bar=True).fit(Classifier(mlp()), Batches(3))
    norms = {float(norm) for _, norm in bar.shown if norm is not None}
    assert norms == set(watch.run.series("total_norm").astype(np.float32))
    assert all(not name.startswith("gradscope") for items, _ in bar.shown for name in items), "unasked nothing is shown"
    printed = capsys.readouterr()
    assert "norm" in printed.out + printed.err


# ------------------------------------------------------------------ whatever fails


def fail(*_: Any, **__: Any) -> Any:
    raise RuntimeError("broken on purpose")


def test_who_monitors_goes_on_where_gradscope_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradscope.recorder.Recorder.begin", fail)
    checkpoint = ModelCheckpoint(tmp_path, monitor=TOTAL)
    stopping = EarlyStopping(DEAD, check_finite=False, patience=99)
    watch = scope()
    fitter = trainer(stopping, checkpoint, watch, max_epochs=3, enable_checkpointing=True)
    fitter.fit(Classifier(mlp()), Batches(3))
    assert fitter.global_step == 9
    assert Path(checkpoint.best_model_path).exists()
    assert math.isnan(ours(fitter)[TOTAL])


def test_what_fails_in_showing_takes_nothing_else_with_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Monitored, "show", fail)
    watch = scope()
    fitter = trainer(watch)
    fitter.fit(Classifier(mlp()), Batches(6))
    reason = "not kept up to date after RuntimeError: broken on purpose"
    assert watch.run.coverage.unseen == {"callback_metrics": reason}
    assert [r.getMessage() for r in caplog.records if r.name == "gradscope"] == [
        f"GradScope: callback_metrics are {reason}. Everything else goes on."
    ]
    assert list(watch.run.steps) == [*range(6)]


# ------------------------------------------------------------------ a device that takes its time


def test_nothing_is_waited_for_but_where_others_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradscope.transfer.Transfer.ready", lambda transfer: False)
    watch, looks = scope(), Looks()
    fitter = trainer(watch, looks, limit_val_batches=1, val_check_interval=4, max_epochs=2, num_sanity_val_steps=0)
    fitter.fit(Validated(mlp()), Batches(6), Batches(1))
    norms = watch.run.series("total_norm").astype(np.float32).tolist()
    assert len(norms) == 12
    # The first step is waited for, then those before validation, and the last of each epoch.
    arrived = [0, 0, 0, 0, 3, 5, 5, 5, 5, 5, 9, 11]
    assert [values[TOTAL] for values in looks.seen["batch"]] == [norms[step] for step in arrived]
    assert [values[TOTAL] for values in looks.seen["epoch"]] == [norms[5], norms[11]]
    assert [values[TOTAL] for values in looks.seen["validation"]] == [norms[3], norms[9]]


# ------------------------------------------------------------------ several ranks


class Ranks:
    """Notes at which steps ranks ask each other, and answers with what rank zero has."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, of_rank_zero: dict[str, float] | None = None) -> None:
        self.asked: list[int] = []
        self.fitter: pl.Trainer | None = None

        def broadcast(strategy: Any, value: Any, src: int = 0) -> Any:
            if isinstance(value, dict) and CRITICAL in value:
                assert self.fitter is not None
                self.asked.append(self.fitter.global_step)
                return of_rank_zero or value
            return value

        monkeypatch.setattr(SingleDeviceStrategy, "broadcast", broadcast)
        monkeypatch.setattr(SingleDeviceStrategy, "reduce_boolean_decision", lambda s, d, **_: d, raising=False)
        monkeypatch.setattr(pl.Trainer, "world_size", property(lambda trainer: 2))

    def fit(self, *callbacks: pl.Callback) -> pl.Trainer:
        self.fitter = trainer(*callbacks, limit_val_batches=1, val_check_interval=4, max_epochs=2)
        self.fitter.fit(Validated(mlp()), Batches(6), Batches(1))
        return self.fitter


ASKED = [1, 4, 6, 10, 12, 12]
"""After the first step, where validation starts, at the end of each epoch, and of the fit."""


def test_ranks_take_what_rank_zero_has_by_the_step_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks, looks = Ranks(monkeypatch, {CRITICAL: 2.0, TOTAL: 7.0}), Looks()
    fitter = ranks.fit(looks, scope())
    assert ranks.asked == ASKED
    assert ours(fitter) == {CRITICAL: 2.0, TOTAL: 7.0}
    everywhere = [v for when in ("epoch", "validation") for v in looks.seen[when]]
    assert everywhere == [{CRITICAL: 2.0, TOTAL: 7.0}] * 4


@pytest.mark.parametrize(
    "method", ["Recorder.begin", "Recorder.poll", "Recorder.end_batch", "Recorder.__init__", "Recorder.end_forward"]
)
def test_a_rank_on_which_gradscope_has_failed_asks_all_the_same(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target = "gradscope.lightning.callback.Recorder" if method.endswith("__init__") else "gradscope.recorder." + method
    monkeypatch.setattr(target, fail)
    ranks = Ranks(monkeypatch)
    watch = scope()
    fitter = ranks.fit(watch)
    fitter.validate(Validated(mlp()), Batches(1), verbose=False)
    assert ranks.asked == ASKED
    assert "GradScope" in watch.run.coverage.unseen


@pytest.mark.slow
def test_two_processes_monitor_the_same(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.lightning.monitored_ranks", str(tmp_path)]
    root = Path(__file__).parents[2]
    subprocess.run(command, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, timeout=300)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert first["steps"] < 54, "stopped by the finding of rank zero"
    assert first["seen"][-1][CRITICAL] == 1
    assert all(set(values) == {CRITICAL, TOTAL, UPDATES, DEAD} for values in first["seen"])
    assert Path(first["path"]).exists()
    assert first["best"] in [values[TOTAL] for values in first["seen"]]
