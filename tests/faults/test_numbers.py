"""Memory that runs out inside a probe, numbers that are none, and a clock that is set back."""

import math
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import nn

import gradscope
from gradscope import GradScope, Severity, cli
from gradscope.probes import PROBES, Probe
from gradscope.probes.activity import ActivityProbe
from gradscope.probes.gradients import GradientProbe
from gradscope.probes.liveness import LivenessProbe
from gradscope.probes.updates import UpdateProbe
from gradscope.recorder import Recorder
from tests.faults.fits import AT, BATCHES, Happens, digest, fitted, scope
from tests.faults.processes import ended, fit_with_checkpoints, started
from tests.models import Batches, Classifier, mlp, trainer

MOMENTS = ("begin_batch", "observe", "before_optimizer_step", "after_optimizer_step", "finish")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    return fitted(tmp_path_factory.mktemp("undisturbed"))


def out_of_memory(*_: Any, **__: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.parametrize(
    ("probe", "moment"),
    [(probe, moment) for probe in PROBES for moment in MOMENTS if moment in vars(probe)],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_out_of_memory_inside_a_probe(
    probe: type[Probe], moment: str, tmp_path: Path, undisturbed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    watching = scope()
    happens = Happens(lambda trainer: monkeypatch.setattr(probe, moment, out_of_memory))
    assert fitted(tmp_path, happens, watching) == undisturbed
    run = gradscope.load(tmp_path)["."]
    assert run.steps.tolist() == list(range(BATCHES))
    off = {slot: why for slot, why in run.coverage.unseen.items() if slot.startswith(probe.__name__)}
    assert off
    assert all(why.startswith("switched off after OutOfMemoryError: CUDA out of memory") for why in off.values())
    assert run.coverage.unseen == off, "and nothing else"
    before = run.metric(probe(watching.thresholds, False).metrics[0].name)[: AT - 1]
    assert np.isfinite(before).any()


@pytest.mark.parametrize(
    ("probe", "moment", "kept"),
    [
        (UpdateProbe, "after_optimizer_step", "_before"),
        (GradientProbe, "after_optimizer_step", "_ledgers"),
        (ActivityProbe, "finish", "_observations"),
        (LivenessProbe, "finish", "_batches"),
    ],
)
def test_a_probe_out_of_memory_lets_go_of_what_it_has(
    probe: type[Probe], moment: str, kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[Any] = []

    def runs_out(self: Probe, *_: Any) -> Any:
        assert getattr(self, kept), "there is something to let go of"
        held.append(lambda: getattr(self, kept))
        raise torch.OutOfMemoryError("CUDA out of memory")

    fitted(tmp_path, Happens(lambda trainer: monkeypatch.setattr(probe, moment, runs_out)), scope())
    (left,) = held
    assert not left()


@pytest.mark.parametrize("moment", ["end", "poll", "begin", "before_optimizer_step"])
def test_out_of_memory_in_the_recorder_itself(
    moment: str, tmp_path: Path, undisturbed: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    happens = Happens(lambda trainer: monkeypatch.setattr(Recorder, moment, out_of_memory))
    assert fitted(tmp_path, happens, scope()) == undisturbed
    lines = [r.getMessage() for r in caplog.records if r.name == "gradscope"]
    assert sum("OutOfMemoryError: CUDA out of memory" in line for line in lines) >= 1, lines
    assert gradscope.load(tmp_path)["."].steps.tolist()[:AT] == list(range(AT))


def fit_with_little_memory(folder: Path, own: bool) -> None:
    """Fit a net whose weights take 64 MB, with no room for the copy of them that an exact measurement makes."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 4000), nn.ReLU(), nn.Linear(4000, 4000), nn.ReLU(), nn.Linear(4000, 4))
    model = Classifier(net, lr=1e-3)
    watching = GradScope(every_n_steps=1, summary=False, exact=True)
    callbacks: list[pl.Callback] = [Happens(_limit_memory, 3)] if own else []
    callbacks += [watching] if own else []
    logger = TensorBoardLogger(folder / "log", name="", version="")
    trainer(*callbacks, logger=logger).fit(model, Batches(8))
    (folder / "outcome").write_text(digest(model))


def _limit_memory(trainer: pl.Trainer) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    # The gradients of the step before are still there: the training itself needs no more than it has.
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 16 * 2**20, resource.RLIM_INFINITY))


@pytest.mark.slow
def test_memory_that_really_runs_out(tmp_path: Path) -> None:
    outcomes = []
    for own in (True, False):
        (folder := tmp_path / str(own)).mkdir()
        assert ended(started(fit_with_little_memory, folder, own)) == 0
        outcomes.append((folder / "outcome").read_text())
    assert outcomes[0] == outcomes[1]
    (run,) = gradscope.load(tmp_path / "True" / "log").values()
    assert run.steps.tolist() == list(range(8))
    assert any("can't allocate memory" in why for why in run.coverage.unseen.values()), run.coverage.unseen


class NaN(Classifier):
    """Whatever can be NaN is: weights, inputs, the loss and with it all gradients."""

    def __init__(self) -> None:
        super().__init__(mlp())
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.fill_(math.nan)


def nan_batches() -> Batches:
    batches = Batches(BATCHES)
    for inputs, _ in batches.batches:
        inputs.fill_(math.nan)
    return batches


def test_nan_in_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watching, model, other = GradScope(every_n_steps=1), NaN(), NaN()
    log = tmp_path / "log"
    trainer(watching, logger=TensorBoardLogger(log, name="", version="")).fit(model, nan_batches())
    trainer().fit(other, nan_batches())
    assert digest(model) == digest(other)
    assert "non_finite" in capsys.readouterr().out
    run = gradscope.load(log)["."]
    assert run.steps.tolist() == list(range(BATCHES))
    assert run.coverage.unseen == {}
    (worst, *_) = watching.findings
    assert (worst.code, worst.severity, worst.first_step) == ("non_finite", Severity.CRITICAL, 0)
    assert run.origin is not None
    assert run.origin.direction == "batch"
    assert run.flights, "the last steps are kept"
    for command in (["summary", str(log)], ["report", str(log), "-o", str(tmp_path / "report.html")]):
        assert cli.main(command) == 0
    assert cli.main(["check", str(log)]) == 1
    assert cli.main(["export", str(log), "--to", "csv", "-o", str(tmp_path / "export.csv")]) == 0


def test_a_clock_that_is_set_back(tmp_path: Path, undisturbed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, day = time.time, 86_400
    happens = Happens(lambda trainer: monkeypatch.setattr(time, "time", lambda: clock() - day))
    began = clock()
    assert fitted(tmp_path, happens, scope()) == undisturbed
    run = gradscope.load(tmp_path)["."]
    assert run.steps.tolist() == list(range(BATCHES))
    assert run.notes == ()
    assert run.wall_times[AT - 1] >= began > run.wall_times[AT + 1] + day - 600, "the test sets it back"
    np.testing.assert_array_equal(np.argsort(run.steps), np.arange(BATCHES))
    assert run.overhead.fit_seconds >= run.overhead.gradscope_seconds > 0


@pytest.mark.filterwarnings("ignore")  # Lightning's, of a fit that goes on from a checkpoint
def test_a_clock_that_is_set_back_before_a_resumption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = time.time
    fit_with_checkpoints(tmp_path, 23)
    monkeypatch.setattr(time, "time", lambda: clock() - 3600)
    checkpoint = next((tmp_path / "checkpoints").glob("*step=20.ckpt"), tmp_path / "checkpoints" / "last.ckpt")
    fit_with_checkpoints(tmp_path, 30, checkpoint)
    run = gradscope.load(tmp_path)["."]
    assert run.steps.tolist() == list(range(30))
    assert run.notes == ()
