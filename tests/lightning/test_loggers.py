"""Where records go: each logger that Lightning knows, several at once, and one that fails."""

import csv
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

import gradscope
from gradscope import GradScope, Run
from gradscope.lightning.sinks import Sinks
from gradscope.lightning.trainers import flush, run_name, sinks_of
from tests.models import Batches, Classifier, mlp, trainer

History = list[tuple[int, float]]
TOTAL = "gradscope/total_norm"


def fitted(*loggers: Logger) -> Run:
    scope = GradScope(every_n_steps=1, summary=False)
    trainer(scope, logger=list(loggers)).fit(Classifier(mlp()), Batches(number=6))
    assert scope.run.coverage.unseen == {}
    return scope.run


def expected(run: Run) -> History:
    return [(int(step), float(value)) for step, value in zip(run.steps, run.series("total_norm"), strict=True)]


# ------------------------------------------------------------------ what each logger was given


def of_csv(folder: Path) -> tuple[Logger, Callable[[], History]]:
    def history() -> History:
        rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
        assert {"gradscope/grad_norm/median", "gradscope_grad_norm/net.0"} <= rows[0].keys()
        return [(int(row["step"]), float(row[TOTAL])) for row in rows if row[TOTAL]]

    return CSVLogger(folder, name="", version=""), history


def of_mlflow(folder: Path) -> tuple[Logger, Callable[[], History]]:
    logger = MLFlowLogger(tracking_uri=f"file:{folder}")

    def history() -> History:
        client, run = logger.experiment, logger.run_id
        assert run is not None
        assert {"gradscope/grad_norm/median", "gradscope_grad_norm/net.0"} <= client.get_run(run).data.metrics.keys()
        return [(metric.step, metric.value) for metric in client.get_metric_history(run, TOTAL)]

    return logger, history


def of_wandb(folder: Path) -> tuple[Logger, Callable[[], History]]:
    logger, given = WandbLogger(save_dir=folder, offline=True), []
    log = logger.experiment.log

    def spied(metrics: dict[str, Any], *args: Any, **options: Any) -> None:
        log(metrics, *args, **options)
        if TOTAL in metrics:
            given.append((metrics["trainer/global_step"], metrics[TOTAL]))

    logger.experiment.log = spied

    def history() -> History:
        summary = logger.experiment.summary  # the last of what the run has taken in
        assert summary[TOTAL] == pytest.approx(given[-1][1])
        assert {"gradscope/grad_norm/median", "gradscope_grad_norm/net.0"} <= set(summary.keys())
        logger.experiment.finish()
        assert list(folder.rglob("*.wandb")), "the run's own file"
        return given

    return logger, history


def installed(name: str, *more: str) -> pytest.MarkDecorator:
    missing = [module for module in (name, *more) if find_spec(module) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} is not installed")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.mark.filterwarnings("ignore")  # those libraries' own
@pytest.mark.parametrize(
    "make",
    [
        of_csv,
        pytest.param(of_mlflow, marks=[installed("mlflow"), pytest.mark.slow]),
        pytest.param(of_wandb, marks=[installed("wandb"), pytest.mark.slow]),
    ],
)
def test_a_logger_is_given_the_aggregates(make: Callable[[Path], Any], tmp_path: Path) -> None:
    logger, history = make(tmp_path / "other")
    run = fitted(logger, TensorBoardLogger(tmp_path / "board", name="", version=""))
    np.testing.assert_allclose(history(), expected(run), rtol=1e-6)
    assert list(gradscope.load(tmp_path / "board")["."].steps) == list(run.steps), "the other has it in full"


# ------------------------------------------------------------------ one that fails


def broken(*_: Any, **__: Any) -> Any:
    raise ConnectionError("no route to host")


def test_a_logger_that_cannot_be_written_to_from_the_start_is_left_alone() -> None:
    heard: list[str] = []
    told: list[object] = []
    record: Any = object()
    sound: Any = SimpleNamespace(record=told.append)
    sinks = Sinks([("Broken", broken), ("Sound", lambda: sound)], heard.append)
    sinks.tell(lambda sink: sink.record(record))
    assert told == [record]
    assert heard == ["no longer writes to Broken after ConnectionError: no route to host. Everything else goes on."]


def test_nothing_that_a_logger_is_asked_for_reaches_the_training(tmp_path: Path) -> None:
    class Broken(TensorBoardLogger):
        version = property(broken)
        experiment = property(broken)
        save = broken

    class Sound(CSVLogger):
        saved = 0

        def save(self) -> None:
            self.saved += 1

    heard: list[str] = []
    first, second = Broken(tmp_path), Sound(tmp_path)
    fit: Any = SimpleNamespace(loggers=[first, second], logger=first)
    assert run_name(fit) == "fit"
    sinks_of(fit, (), frozenset({"scalars"}), heard.append)
    assert heard == ["no longer writes to Broken after ConnectionError: no route to host. Everything else goes on."]
    flush(fit)
    assert second.saved == 1
