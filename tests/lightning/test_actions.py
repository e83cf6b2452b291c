"""What is done about findings: by severity, once, on all ranks, above the progress bars, and never by accident."""

import contextlib
import dataclasses
import io
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies import SingleDeviceStrategy
from rich.console import Console
from rich.progress import Progress
from torch import nn
from tqdm import tqdm

import gradscope
from gradscope import Finding, GradScope, GradScopeError, Severity, Stop
from gradscope.lightning.actions import DEFAULT_ACTIONS, Action, Actions, Ending, announcement
from gradscope.lightning.options import on_finding
from gradscope.messages import say
from tests.models import Batches, Classifier, mlp, trainer

ROOT = Path(__file__).parents[2]
INFO, WARNING, CRITICAL = Severity


def finding(code: str, severity: Severity = WARNING, layers: Sequence[str] = ("net.1",)) -> Finding:
    return Finding(
        code, severity, tuple(layers), 0, 9, "Half of net.1 is dead. Usual cause: a step.", "Start anew; or not."
    )


def sick() -> Classifier:
    """A net all of whose first rectifier is dead: found, as critical, with the tenth record."""
    net = mlp()
    nn.init.constant_(net.get_parameter("0.bias"), -100.0)
    return Classifier(net, lr=1e-3)


def fit(scope: GradScope, model: pl.LightningModule | None = None, batches: int = 40, **options: Any) -> pl.Trainer:
    fitter = trainer(scope, **options)
    fitter.fit(model or sick(), Batches(number=batches))
    return fitter


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "gradscope"]


# ------------------------------------------------------------------ the option


@pytest.mark.parametrize(
    ("given", "actions"),
    [
        ("warn", "ignore warn warn"),
        ("ignore", "ignore ignore ignore"),
        ("raise", "ignore raise raise"),
        ({"critical": "stop"}, "ignore warn stop"),
        ({Severity.INFO: "warn", "warning": "ignore"}, "warn ignore warn"),
        ({}, "ignore warn warn"),
    ],
)
def test_the_option_goes_by_severity(given: str | Mapping[str | Severity, str], actions: str) -> None:
    policy = on_finding(given)
    assert " ".join(str(policy[severity]) for severity in Severity) == actions


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (True, TypeError, r"`on_finding` must be an action or a mapping of severities to actions, got True; \{'crit"),
        (
            "explode",
            ValueError,
            r"`on_finding` must name actions among ignore, warn, stop, raise, got 'explode'; 'stop'",
        ),
        ({"critical": 3}, ValueError, r"must name actions among ignore, warn, stop, raise, got 3"),
        ({"fatal": "stop"}, ValueError, r"must have keys among info, warning, critical, got 'fatal'; \{'critical'"),
        ({3: "stop"}, ValueError, r"must have keys among info, warning, critical, got 3"),
    ],
)
def test_the_option_is_validated(given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        GradScope(on_finding=given)


# ------------------------------------------------------------------ what is new


def test_a_finding_is_told_when_it_appears_and_when_it_grows_worse() -> None:
    said: list[str] = []
    actions = Actions({**DEFAULT_ACTIONS, INFO: Action.WARN}, said.append)
    for severity in (INFO, INFO, CRITICAL, WARNING, CRITICAL):
        actions.hear([finding("dead_relu", severity)], 7)
    actions.hear([finding("dead_relu", CRITICAL), finding("no_gradient"), finding("no_gradient", layers=["x"])], 8)
    actions.hear([], 9)
    actions.hear([finding("no_gradient")], 9)
    assert [line.split(":")[0] for line in said] == ["INFO at step 7", "CRITICAL at step 7", "WARNING at step 8"]


def test_the_severest_action_wins_and_the_worst_finding_is_the_reason() -> None:
    actions = Actions(on_finding({"warning": "stop", "critical": "raise"}), lambda line: None)
    assert actions.agreed(None) is None
    actions.hear([finding("a")], 1)
    assert actions.agreed(None) == Ending(Action.STOP, finding("a"))
    actions.hear([finding("b"), finding("c", CRITICAL)], 2)
    actions.hear([finding("d", CRITICAL)], 3)
    assert actions.agreed(None) == Ending(Action.RAISE, finding("c", CRITICAL))


def test_an_announcement_is_one_line_and_cut_at_sentences() -> None:
    line = announcement(finding("dead_relu", layers=["net.1", "b", "c"]), 120)
    assert line == (
        "WARNING at step 120: dead_relu in net.1 and 2 other layers: Half of net.1 is dead. Cure: Start anew."
    )
    assert announcement(finding("x", layers=[]), 3).startswith("WARNING at step 3: x in the whole net: Half")
    caused = dataclasses.replace(finding("x"), cause="update_ratio_high")
    assert "x in net.1, which follows from update_ratio_high: Half" in announcement(caused, 3)
    assert announcement(finding("x", layers=["a\n\x1b[31m"]), 3).isprintable()


def test_the_error_survives_a_process() -> None:
    error = pickle.loads(pickle.dumps(GradScopeError(finding("dead_relu"))))
    assert error.finding == finding("dead_relu")
    assert str(error) == "dead_relu in net.1: Half of net.1 is dead. Cure: Start anew."


# ------------------------------------------------------------------ in a fit


def test_by_default_a_line_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    scope = GradScope(summary=False, every_n_steps=1)
    fitter = fit(scope, batches=60)
    (line,) = lines(caplog)
    assert line.startswith("GradScope: CRITICAL at step 9: dead_relu in net.1")
    assert "Cure: Start again with a lower learning rate" in line
    assert (fitter.global_step, scope.stopped, scope.run.stop) == (60, None, None)


def test_nothing_is_said_where_it_is_ignored_or_reported_anyway(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(GradScope(summary=False, on_finding="ignore"))
    idle = Classifier(mlp())
    idle.spare = nn.Linear(3, 3)
    fit(GradScope(), idle, batches=6)  # found at the end alone
    assert "no_gradient" in capsys.readouterr().out
    assert lines(caplog) == []
    fit(GradScope(summary=False, on_finding="stop"), idle, batches=6)
    (line,) = lines(caplog)
    assert line.startswith("GradScope: WARNING at step 5: no_gradient in spare")
    assert "stops the fit" not in line


def test_stop_ends_the_fit_cleanly_and_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    scope = GradScope(on_finding={"critical": "stop"})
    fitter = fit(scope, logger=TensorBoardLogger(tmp_path, name="", version=""), max_epochs=3)
    assert (fitter.global_step, fitter.state.status) == (10, "finished")
    assert scope.stopped is not None
    assert (scope.stopped.code, scope.stopped.severity) == ("dead_relu", CRITICAL)
    assert gradscope.load(tmp_path)["."].stop == scope.run.stop == Stop(9, "dead_relu")
    assert "GradScope stopped the fit at step 9: dead_relu" in capsys.readouterr().out
    assert lines(caplog)[0].endswith("GradScope stops the fit.")
    fit(scope, Classifier(mlp()), batches=12)
    assert scope.stopped is None, "each fit starts over"


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "epoch=0-step=10.ckpt"),
        ({"every_n_train_steps": 7}, "stopped-step=10.ckpt"),
        ({"every_n_epochs": 5}, "stopped-step=10.ckpt"),
        ({"save_top_k": 0}, None),
    ],
)
def test_a_stopped_fit_leaves_a_checkpoint_of_its_last_state(
    options: dict[str, Any], name: str | None, tmp_path: Path
) -> None:
    scope, model = GradScope(on_finding="stop", summary=False), sick()
    checkpoints = trainer(scope, ModelCheckpoint(tmp_path, **options), enable_checkpointing=True)
    checkpoints.fit(model, Batches(number=40))
    if name is None:
        assert list(tmp_path.iterdir()) == []
        return
    saved = torch.load(tmp_path / name, weights_only=False)
    assert saved["global_step"] == 10
    torch.testing.assert_close(saved["state_dict"], model.state_dict(), rtol=0, atol=0)


def test_raise_ends_the_fit_with_the_finding_and_leaves_the_log_whole(tmp_path: Path) -> None:
    scope, model = GradScope(on_finding="raise", summary=False), sick()
    with pytest.raises(GradScopeError, match=r"dead_relu in net\.1") as error:
        fit(scope, model, logger=TensorBoardLogger(tmp_path, name="", version=""))
    assert error.value.finding == scope.stopped
    assert error.value.finding.code == "dead_relu"
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    run = gradscope.load(tmp_path)["."]
    assert (len(run.steps), run.stop) == (10, Stop(9, "dead_relu"))
    assert run.flights.keys() == {"dead_relu"}
    assert scope.run.coverage.unseen == {}


def test_raise_also_ends_a_fit_that_is_too_short_to_be_judged_on_its_way() -> None:
    model = Classifier(mlp())
    model.spare = nn.Linear(3, 3)
    with pytest.raises(GradScopeError, match="no_gradient in spare"):
        fit(GradScope(on_finding="raise", summary=False), model, batches=6)


def test_what_fails_in_acting_never_reaches_the_training(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> str:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr("gradscope.lightning.actions.announcement", fail)
    scope = GradScope(on_finding="warn", summary=False)
    assert fit(scope).global_step == 40
    assert scope.run.coverage.unseen == {
        "on_finding": "nothing is done about findings after RuntimeError: broken on purpose"
    }
    assert len(scope.run.steps) == 13, "everything else goes on"


# ------------------------------------------------------------------ several ranks


class Strategy:
    """Counts what ranks ask of each other, and answers as if rank zero wanted `ending` from its third question on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, scope: GradScope, ending: Ending | None = None) -> None:
        self.asked: list[int] = []
        strategy = self

        def reduce(self: Any, decision: bool, all: bool = True) -> bool:  # noqa: A002
            assert not all
            strategy.asked.append(scope._actions._asked_at)
            return decision or (ending is not None and len(strategy.asked) >= 3)

        monkeypatch.setattr(SingleDeviceStrategy, "reduce_boolean_decision", reduce, raising=False)
        monkeypatch.setattr(SingleDeviceStrategy, "broadcast", lambda self, value, src=0: ending or value)
        monkeypatch.setattr(pl.Trainer, "world_size", property(lambda self: 2))


def test_ranks_agree_by_the_step_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    scope = GradScope(on_finding="stop", summary=False)
    strategy = Strategy(monkeypatch, scope)
    fit(scope, Classifier(mlp()), 48, accumulate_grad_batches=2)
    assert strategy.asked == [*range(1, 12), 21, 23], "right after each step that is recorded, and at the end"


def test_a_rank_on_which_gradscope_failed_answers_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr("gradscope.recorder.Recorder.begin", fail)
    monkeypatch.setattr(GradScope, "_finish", fail)
    scope = GradScope(on_finding="raise", summary=False)
    strategy = Strategy(monkeypatch, scope)
    fit(scope, Classifier(mlp()), 15)
    assert strategy.asked == [*range(1, 12), 14], "after each step that the others record, and at the end"


@pytest.mark.parametrize(("action", "steps"), [(Action.STOP, 4), (Action.RAISE, 3)])
def test_a_rank_that_finds_nothing_ends_with_the_others(
    action: Action, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scope = GradScope(on_finding="raise", summary=False)
    Strategy(monkeypatch, scope, Ending(action, finding("dead_relu", CRITICAL)))
    monkeypatch.setattr(pl.Trainer, "is_global_zero", property(lambda self: False))
    fitter = trainer(scope)
    with pytest.raises(GradScopeError) if action is Action.RAISE else contextlib.nullcontext():
        fitter.fit(Classifier(mlp()), Batches(number=20))
    assert fitter.global_step == steps
    assert scope.stopped == finding("dead_relu", CRITICAL)


def test_no_rank_waits_where_no_finding_may_end_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    scope = GradScope(on_finding="warn", summary=False)
    strategy = Strategy(monkeypatch, scope)
    fit(scope)
    assert strategy.asked == []


@pytest.mark.slow
@pytest.mark.parametrize("action", ["stop", "raise"])
def test_two_processes_end_together(action: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.lightning.two_ranks", action, str(tmp_path)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, timeout=300)
    first, second = ((tmp_path / f"{rank}.json").read_text() for rank in range(2))
    assert first == second
    assert '"stopped": "dead_relu"' in first
    assert ('"raised": "dead_relu"' in first) == (action == "raise")


# ------------------------------------------------------------------ above the bars


def terminal_of(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Return what a terminal is sent: by the bars, and by a handler of the user's that was made before any bar."""
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    handler = logging.StreamHandler(terminal)
    monkeypatch.setattr(logging.getLogger("gradscope"), "handlers", [handler])
    return terminal


def test_a_line_stands_above_the_bar_of_tqdm(monkeypatch: pytest.MonkeyPatch) -> None:
    console = terminal_of(monkeypatch)
    with tqdm(total=4, file=console, ncols=30) as bar:
        bar.update(2)
        say("hear me")
    before, _, after = console.getvalue().partition("GradScope: hear me\n")
    assert before.rpartition("\r")[2] == ""
    assert set(before.split("\r")[-2]) == {" "}, "the bar was wiped away"
    assert " 50%" in after.split("\r")[1]


def test_a_line_stands_above_the_bar_of_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    console = terminal_of(monkeypatch)
    with Progress(console=Console(file=console, force_terminal=True, width=40), auto_refresh=False) as bar:
        bar.add_task("", total=4, completed=2)
        bar.refresh()
        say("hear me")
        (handler,) = logging.getLogger("gradscope").handlers
        assert isinstance(handler, logging.StreamHandler)
        assert handler.stream is console, "handlers are as they were"
    before, _, after = console.getvalue().partition("GradScope: hear me\n")
    assert before.endswith("\r\x1b[2K"), "the bar was wiped away"
    assert "━" in after.splitlines()[0]


def test_what_began_after_the_last_record_is_told_at_its_own_step() -> None:
    nan = Finding("non_finite", Severity.CRITICAL, ("act",), 15, 15, "Born.", "Clamp.")
    assert announcement(nan, 10) == "CRITICAL at step 15: non_finite in act: Born. Cure: Clamp."
    assert announcement(nan, 20).startswith("CRITICAL at step 20:")
