"""In company: beside each of Lightning's own callbacks, tuners and limits, training and their results are the same.

Those that change how a net is trained are also rows of `tests.modes`, where all that is measured is held to an oracle.
"""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning import callbacks as companions
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.tuner.tuning import Tuner
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import gradscope
from gradscope import GradScope, Severity
from tests.models import Batch, Batches, Validated, own_metrics, trainer
from tests.test_modes import _little_garbage, assert_same, hooks, process_left_as_it_was

__all__ = ["_little_garbage"]  # a fixture: tuners collect it


class Model(Validated):
    """A net with a backbone, dropout, batch norm, and all the loops that Lightning has."""

    def __init__(self) -> None:
        super().__init__(nn.Identity(), lr=0.01, optimizer=torch.optim.Adam)
        self.backbone = nn.Sequential(nn.Linear(20, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2))
        self.net = nn.Sequential(self.backbone, nn.Linear(16, 4))
        self.batch_size = 16

    def loader(self, number: int) -> Any:
        inputs, labels = (torch.cat(parts) for parts in zip(*Batches(number), strict=True))
        return DataLoader(TensorDataset(inputs, labels), batch_size=self.batch_size, shuffle=True)

    def train_dataloader(self) -> Any:
        return self.loader(6)

    def val_dataloader(self) -> Any:
        return Batches(2, seed=2)

    test_dataloader = predict_dataloader = val_dataloader

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("test_loss", F.cross_entropy(self.net(batch[0]), batch[1]))

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return torch.as_tensor(self.net(batch[0]))


class HeadFirst(Model):
    """Its optimizer has the head alone, until a callback adds the backbone."""

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.net.get_submodule("1").parameters(), lr=0.01)


class Fails(Model):
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        if self.global_step == 9:
            raise KeyError("the user's own mistake")
        return super().training_step(batch, batch_idx)


@dataclass(frozen=True)
class Company:
    """What goes with GradScope, and what must come of it."""

    name: str
    companion: Callable[[Path], Any] = lambda folder: None
    """A callback of Lightning's, made anew for each fit."""
    result: Callable[[Any, pl.Trainer], Any] = lambda companion, fitter: None
    """What the companion has made."""
    options: Callable[[Path], dict[str, Any]] = lambda folder: {}
    """Of the Trainer; by default it trains for 3 epochs of 6 batches and validates after each."""
    fit: Callable[[pl.Trainer, Any], Any] = lambda fitter, model: fitter.fit(model)
    model: Callable[[], pl.LightningModule] = Model
    steps: Iterable[int] | None = range(18)
    """Those that are recorded; None is all that Lightning takes, which depends on its version."""
    unseen: Sequence[str] = ()
    """What GradScope is to say that it has not seen."""


def limits(**options: Any) -> Callable[[Path], dict[str, Any]]:
    return lambda folder: options


def logs(folder: Path) -> dict[str, Any]:
    return {"logger": CSVLogger(folder, name="", version="")}


def logged(companion: Any, fitter: pl.Trainer) -> list[str]:
    """The names of what stands in the log, but for GradScope's."""
    header = (Path(fitter.log_dir or "") / "metrics.csv").read_text().splitlines()[0]
    return [name for name in header.split(",") if not name.startswith("gradscope")]


def best(companion: Any, fitter: pl.Trainer) -> Any:
    saved = torch.load(companion.best_model_path, weights_only=False)
    state = (saved["state_dict"], saved["optimizer_states"], saved["global_step"])
    return Path(companion.best_model_path).name, companion.best_model_score, state


def written(companion: Any, fitter: pl.Trainer) -> Any:
    (path,) = Path(fitter.default_root_dir).glob("*.ckpt")
    return path.name, torch.load(path, weights_only=False)["state_dict"]


def averaged(companion: Any, fitter: pl.Trainer) -> Any:
    return companion._average_model.state_dict()


def fit_and_fail(fitter: pl.Trainer, model: Any) -> None:
    with pytest.raises(KeyError):
        fitter.fit(model)


def find_rate(fitter: pl.Trainer, model: Any) -> Any:
    found: Any = Tuner(fitter).lr_find(model, num_training=12)
    fitter.fit(model)
    return found.suggestion(), found.results


def find_size(fitter: pl.Trainer, model: Any) -> Any:
    size = Tuner(fitter).scale_batch_size(model, mode="binsearch", steps_per_trial=1, max_trials=2, init_val=16)
    fitter.fit(model)
    return size


def evaluate(fitter: pl.Trainer, model: Any) -> Any:
    fitter.fit(model)
    validated = fitter.validate(model, verbose=False)
    return validated, fitter.test(model, verbose=False), fitter.predict(model)


def evaluate_alone(fitter: pl.Trainer, model: Any) -> Any:
    validated = fitter.validate(model, verbose=False)
    return validated, fitter.test(model, verbose=False), fitter.predict(model)


COMPANY = [
    Company(
        "EarlyStopping",
        lambda folder: companions.EarlyStopping("val_loss", patience=1, min_delta=1.0),
        lambda stopping, fitter: (stopping.stopped_epoch, stopping.best_score, fitter.current_epoch),
        steps=range(12),
    ),
    Company(
        "ModelCheckpoint",
        lambda folder: companions.ModelCheckpoint(folder, monitor="val_loss", save_top_k=2, save_last=True),
        best,
        limits(enable_checkpointing=True),
    ),
    Company(
        "OnExceptionCheckpoint",
        companions.OnExceptionCheckpoint,
        written,
        limits(enable_checkpointing=True),
        fit_and_fail,
        Fails,
        range(9),
    ),
    Company(
        "StochasticWeightAveraging",
        lambda folder: companions.StochasticWeightAveraging(0.05, 1, annealing_epochs=1),
        averaged,
        steps=range(19),
    ),
    *(
        Company(name, lambda folder, name=name: getattr(companions, name)(), averaged)  # type: ignore[misc]
        for name in ("WeightAveraging", "EMAWeightAveraging")
        if hasattr(companions, name)
    ),
    Company(
        "LearningRateFinder",
        lambda folder: companions.LearningRateFinder(num_training_steps=12),
        lambda finder, fitter: (finder.optimal_lr.suggestion(), finder.optimal_lr.results),
    ),
    Company(
        "BatchSizeFinder",
        lambda folder: companions.BatchSizeFinder(steps_per_trial=1, max_trials=2, init_val=8),
        lambda finder, fitter: finder.optimal_batch_size,
        steps=None,
    ),
    Company("Tuner.lr_find", fit=find_rate),
    Company("Tuner.scale_batch_size", fit=find_size, steps=None),
    Company(
        "LearningRateMonitor",
        lambda folder: companions.LearningRateMonitor("step", log_momentum=True),
        lambda monitor, fitter: (monitor.lrs, logged(monitor, fitter)),
        logs,
    ),
    Company("DeviceStatsMonitor", lambda folder: companions.DeviceStatsMonitor(cpu_stats=True), logged, logs),
    Company(
        "ThroughputMonitor",
        lambda folder: companions.ThroughputMonitor(lambda batch: len(batch[0]), window_size=3),
        logged,
        logs,
    ),
    Company(
        "Timer",
        lambda folder: companions.Timer(timedelta(hours=1)),
        lambda timer, fitter: (timer.time_elapsed() > 0, timer.time_elapsed("validate") > 0),
    ),
    Company(
        "ModelPruning",
        lambda folder: companions.ModelPruning("l1_unstructured", amount=0.3),
        lambda pruning, fitter: [name for name, _ in fitter.lightning_module.named_buffers()],
    ),
    Company(
        "BackboneFinetuning",
        lambda folder: companions.BackboneFinetuning(1, backbone_initial_lr=0.001),
        lambda finetuning, fitter: [group["lr"] for group in fitter.optimizers[0].param_groups],
        model=HeadFirst,
    ),
    Company(
        "GradientAccumulationScheduler",
        lambda folder: companions.GradientAccumulationScheduler({0: 1, 1: 3}),
        lambda scheduler, fitter: fitter.accumulate_grad_batches,
        steps=range(10),
    ),
    Company("RichProgressBar", lambda folder: companions.RichProgressBar(), options=limits(enable_progress_bar=True)),
    Company("TQDMProgressBar", lambda folder: companions.TQDMProgressBar(), options=limits(enable_progress_bar=True)),
    Company(
        "RichModelSummary", lambda folder: companions.RichModelSummary(), options=limits(enable_model_summary=True)
    ),
    Company("fast_dev_run", options=limits(fast_dev_run=3), steps=range(3)),
    Company("overfit_batches", options=limits(overfit_batches=2), steps=range(6)),
    Company("limit_train_batches", options=limits(limit_train_batches=4), steps=range(12)),
    Company("limit_train_batches, a share", options=limits(limit_train_batches=0.5), steps=range(9)),
    Company("no batch at all", options=limits(limit_train_batches=0), steps=(), unseen=["net.0.2"]),
    Company("limit_val_batches", options=limits(limit_val_batches=1, limit_test_batches=1), fit=evaluate),
    Company("val_check_interval", options=limits(val_check_interval=0.5)),
    Company("num_sanity_val_steps", options=limits(num_sanity_val_steps=-1)),
    Company("max_steps", options=limits(max_steps=8, max_epochs=-1), steps=range(8)),
    Company("max_time", options=limits(max_time="00:01:00:00")),
    Company("max_time that is over", options=limits(max_time=timedelta(0)), steps=(), unseen=["net.0.2"]),
    Company("profilers", options=limits(profiler="advanced")),
    Company("validate, test and predict", fit=evaluate),
    Company("validate, test and predict alone", fit=evaluate_alone, steps=()),
]


def fitted(company: Company, *scopes: GradScope) -> dict[str, Any]:
    """Return all that a fit leaves behind, and what the companion has made of it."""
    with process_left_as_it_was(), tempfile.TemporaryDirectory() as folder:
        pl.seed_everything(7, verbose=False)
        companion, model = company.companion(Path(folder)), company.model()
        defaults = {"max_epochs": 3, "limit_val_batches": 1.0, "default_root_dir": folder}
        callbacks = [*scopes, *([] if companion is None else [companion])]
        fitter = trainer(*callbacks, **(defaults | company.options(Path(folder))))
        answer = company.fit(fitter, model)
        return {
            "weights": model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in fitter.optimizers],
            "metrics": own_metrics(fitter),
            "torch": torch.get_rng_state(),
            "hooks": hooks(model, fitter),
            "steps": fitter.global_step,
            "answer": answer,
            "result": company.result(companion, fitter),
        }


def rows() -> list[Any]:
    return [pytest.param(company, id=company.name) for company in COMPANY]


@pytest.mark.filterwarnings("ignore")  # Lightning's advice about this use of each
@pytest.mark.parametrize("company", rows())
def test_in_company_all_is_the_same(company: Company) -> None:
    if not (hasattr(companions, company.name) or company.name[0].islower() or "." in company.name):
        pytest.skip(f"this Lightning has no {company.name}")
    scope = GradScope(every_n_steps=1, summary=False)
    plain = fitted(company)
    assert_same(fitted(company, scope), plain)
    assert list(scope.run.steps) == list(range(plain["steps"]) if company.steps is None else company.steps)
    assert [f.code for f in scope.findings if f.severity >= Severity.WARNING] == []
    assert list(scope.run.coverage.unseen) == list(company.unseen)


@pytest.mark.filterwarnings("ignore")
def test_the_comparison_above_can_fail() -> None:
    class Meddles(GradScope):
        def on_train_batch_end(self, *arguments: Any) -> None:
            super().on_train_batch_end(*arguments)
            torch.rand(1)

    company = next(company for company in COMPANY if company.name == "ModelCheckpoint")
    with pytest.raises(AssertionError, match="weights"):
        assert_same(fitted(company, Meddles(summary=False)), fitted(company))


# ------------------------------------------------------------------ nothing is recorded but a fit


@pytest.mark.parametrize("evaluation", ["validate", "test", "predict"])
def test_an_evaluation_between_fits_leaves_the_record_as_it_was(
    evaluation: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scope, model = GradScope(every_n_steps=1), Model()
    fitter = trainer(scope, limit_val_batches=1.0, logger=TensorBoardLogger(tmp_path, name="", version=""))
    fitter.fit(model)
    capsys.readouterr()
    before, log = scope.run, gradscope.load(tmp_path)["."]
    getattr(fitter, evaluation)(model)
    assert "GradScope" not in capsys.readouterr().out
    assert_same(scope.run.metrics, before.metrics)
    assert scope.run.overhead.fit_seconds == before.overhead.fit_seconds
    assert list(gradscope.load(tmp_path)["."].steps) == list(log.steps) == [*range(6)]
    assert not [name for name in fitter.callback_metrics if name.startswith("gradscope/")]
