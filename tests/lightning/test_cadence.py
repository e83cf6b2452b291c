"""Which steps are recorded: by an interval, by a budget, and more of them while something is wrong."""

import math
import time
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.strategies import SingleDeviceStrategy

from gradscope import GradScope, Record
from gradscope.lightning.alarm import CALM, Alarm
from gradscope.lightning.cadence import FIRST_STEPS, LONGEST_INTERVAL, Cadence, Plan
from tests.models import Batches, Classifier, mlp, trainer


def planned(cadence: Cadence, step: float, record: float, idle: float = 0.0) -> int:
    for recorded, own in ((True, record), (False, idle)):
        for _ in range(20):
            cadence.took(recorded, step + own, own)
    return cadence.affordable_interval()


def test_without_a_budget_the_interval_stays() -> None:
    cadence = Cadence(7)
    assert [s for s in range(30) if cadence.due(s)] == [*range(FIRST_STEPS), 14, 21, 28]
    assert not any(cadence.wants_review(n) for n in range(100))
    assert planned(cadence, 1.0, 0.5) == 7
    assert Cadence().interval == 10


@pytest.mark.parametrize(
    ("budget", "record", "idle", "interval"),
    [
        (0.5, 0.1, 0.0, 1),  # 0.1 of a step is less than 0.8 × 0.5
        (0.02, 0.02, 0.0, 2),  # 0.02 / (0.8 × 0.02), rounded up
        (0.02, 0.5, 0.0, 63),  # the same, but the records so far cost more than the budget: half of it is planned
        (0.02, 0.5, 0.004, 124),  # 0.496 / (0.4 × 0.02 − 0.004)
        (0.001, 0.5, 0.004, LONGEST_INTERVAL),  # an idle step alone costs more than the budget
    ],
)
def test_the_interval_holds_the_budget(budget: float, record: float, idle: float, interval: int) -> None:
    assert planned(Cadence(budget=budget), 1.0, record, idle) == interval


def test_where_the_budget_does_not_pay_for_looking_nothing_is_looked_at_for_good() -> None:
    cadence = Cadence(budget=0.02)
    for _ in range(9):
        cadence.took(False, 1.02, 0.02)  # 0.02 of a step is more than 0.8 × 0.02
    assert not cadence.plan().bare, "too few to tell by"
    assert planned(cadence, 1.0, 0.5, 0.02) == LONGEST_INTERVAL
    cadence.follow(cadence.plan())
    assert cadence.bare
    for _ in range(10_000):
        cadence.took(False, 1.001, 0.001)
    cadence.follow(cadence.plan())
    assert cadence.interval == 34  # 0.499 / (0.8 × 0.02 − 0.001), rounded up
    assert cadence.bare
    resumed, richer, unlimited = Cadence(budget=0.02), Cadence(budget=0.03), Cadence()
    for other in (resumed, richer, unlimited):
        other.restore(cadence.state())
    assert (resumed.bare, richer.bare, unlimited.bare) == (True, False, False)


def test_what_is_looked_at_in_every_step_is_affordable_where_records_are_not() -> None:
    cadence = Cadence(budget=0.02)
    assert planned(cadence, 1.0, 20.0, 0.015) == LONGEST_INTERVAL  # half of the budget, until it is paid back
    assert not cadence.plan().bare


@pytest.mark.parametrize(("budget", "bare"), [(1e-6, True), (1.0, False)])
def test_steps_are_counted_where_nothing_is_looked_at(budget: float, bare: bool) -> None:
    scope = GradScope(budget=budget, summary=False)
    trainer(scope).fit(Classifier(mlp(), lr=1e-3), Batches(60))
    why = "not looked at, for the budget does not pay for it"
    assert scope.run.coverage.unseen == ({"every step": why} if bare else {})
    assert scope.run.ledger.steps == 60


def test_the_first_step_is_recorded_unless_a_record_goes_on() -> None:
    fresh, resumed, state = Cadence(10), Cadence(10), Cadence(10).state()
    resumed.restore(state)
    for cadence in (fresh, resumed):
        cadence.begin(13)
    assert [step for step in range(13, 35) if fresh.due(step)] == [13, 20, 30]
    assert [step for step in range(13, 35) if resumed.due(step)] == [20, 30]


def test_reviews_become_rarer() -> None:
    cadence = Cadence(budget=0.02)
    assert [step for step in range(100) if cadence.wants_review(step)] == [12, 24, 48, 96]


def test_an_alarm_on_one_of_several_ranks_changes_no_step() -> None:
    cadence = Cadence()
    cadence.alarm.on = True
    assert cadence.due(13)
    cadence.alone = False
    assert not cadence.due(13)
    assert not cadence.alarmed()


def record(step: int, norm: float = 1.0, loss: float = 1.0, **more: float) -> Record:
    bad = {} if math.isfinite(loss) else {"nonfinite_loss": 1.0}
    return Record(step, 0.0, (), {}, {"loss": loss, "total_norm": norm, **bad, **more})


@pytest.mark.parametrize(
    ("sick", "alarming"),
    [
        ({"norm": 30.0}, True),
        ({"norm": math.inf}, True),
        ({"loss": 4.0}, True),
        ({"loss": math.nan}, True),
        ({"norm": 8.0, "loss": 2.0}, False),
        ({"norm": math.inf, "skipped": 1.0}, False),
    ],
)
def test_the_alarm(sick: dict[str, float], alarming: bool) -> None:
    alarm = Alarm()
    for i in range(8):
        assert not alarm.hear(record(i))
    assert alarm.hear(record(8, **sick)) == alarming
    assert alarm.on == alarming
    for i in range(CALM):
        assert alarm.on == alarming
        alarm.hear(record(9 + i))
    assert not alarm.on


def test_a_run_that_is_always_alarming_is_not_recorded_in_full_for_ever() -> None:
    alarm = Alarm()
    on = 0
    for i in range(1000):
        alarm.hear(record(i, loss=math.nan))
        on += alarm.on
    assert 50 <= on <= 60


def test_an_alarm_records_every_step_until_it_is_calm_again() -> None:
    batches = Batches(number=60)
    x, y = batches.batches[20]
    batches.batches[20] = (x * 1e3, y)
    scope = GradScope(summary=False)
    trainer(scope).fit(Classifier(mlp(), lr=1e-6), batches)
    assert list(scope.run.steps) == [*range(10), 10, 20, 21, 22, 23, 30, 40, 50]


def test_a_budget_chooses_the_interval_at_the_start_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[bool, float, float]] = []
    monkeypatch.setattr(Cadence, "took", lambda self, *what: told.append(what))
    monkeypatch.setattr(Cadence, "affordable_interval", lambda self: 7)
    scope = GradScope(budget=0.05, summary=False)
    assert scope.every_n_steps == 10
    trainer(scope).fit(Classifier(mlp()), Batches(number=40))
    assert list(scope.run.steps) == [*range(11), 14, 21, 28, 35]
    assert scope.run.overhead.every_n_steps == scope.every_n_steps == 7
    assert [recorded for recorded, *_ in told] == [step in scope.run.steps for step in range(40)]
    assert all(0 < own < seconds for _, seconds, own in told)


def test_what_a_checkpoint_takes_is_no_part_of_a_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told: list[tuple[bool, float, float]] = []
    monkeypatch.setattr(Cadence, "took", lambda self, *what: told.append(what))
    memory = GradScope._memory

    def slow(self: GradScope) -> Any:
        start = time.perf_counter()
        while time.perf_counter() - start < 0.3:
            pass
        self._fit.seconds += time.perf_counter() - start
        return memory(self)

    monkeypatch.setattr(GradScope, "_memory", slow)
    scope, saves = GradScope(budget=0.05, summary=False), ModelCheckpoint(tmp_path, every_n_train_steps=5)
    fitter = trainer(scope, saves, enable_checkpointing=True)
    fitter.fit(Classifier(mlp()), Batches(number=20))
    assert list(tmp_path.iterdir()), "there are checkpoints"
    assert scope.run.overhead.gradscope_seconds > 4 * 0.3
    assert sum(own for *_, own in told) < 4 * 0.3
    assert all(0 < own < seconds for _, seconds, own in told)


def test_ranks_take_what_rank_zero_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Plan] = []

    def broadcast(self: Any, value: Any, src: int = 0) -> Any:
        if isinstance(value, Plan):
            asked.append(value)
            return Plan(17, bare=True)
        return value

    monkeypatch.setattr(SingleDeviceStrategy, "broadcast", broadcast)
    monkeypatch.setattr(pl.Trainer, "world_size", property(lambda self: 2))
    scope = GradScope(budget=0.5, summary=False)
    trainer(scope).fit(Classifier(mlp()), Batches(number=60))
    assert len(asked) == 3, "before steps 12, 24 and 48"
    assert list(scope.run.steps) == [*range(11), 17, 34, 51]
    assert "every step" in scope.run.coverage.unseen


def test_a_rank_on_which_gradscope_failed_does_not_leave_the_others_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def broadcast(self: Any, value: Any, src: int = 0) -> Any:
        asked.append(value)
        return value

    def fail(*_: Any) -> None:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr("gradscope.recorder.Recorder.begin", fail)
    monkeypatch.setattr(SingleDeviceStrategy, "broadcast", broadcast)
    monkeypatch.setattr(pl.Trainer, "world_size", property(lambda self: 2))
    scope = GradScope(budget=0.5, summary=False)
    trainer(scope).fit(Classifier(mlp()), Batches(number=30))
    assert "broken on purpose" in scope.run.coverage.unseen["GradScope"]
    assert [value for value in asked if isinstance(value, Plan)] == [Plan(10, bare=False)] * 2


def test_every_step_is_counted_and_so_is_every_one_that_was_skipped() -> None:
    scope = GradScope(summary=False)
    trainer(scope, accumulate_grad_batches=2).fit(Classifier(mlp()), Batches(number=60))
    assert (scope.run.ledger.steps, scope.run.ledger.skipped) == (30, 0)
    scope = GradScope(summary=False)
    trainer(scope).fit(Classifier(mlp(), optimizer=torch.optim.LBFGS, lr=0.01), Batches(number=3))
    assert (scope.run.ledger.steps, scope.run.ledger.skipped) == (3, 0)


@pytest.mark.parametrize("fused", [False, True])
def test_steps_that_a_scaler_skips_are_counted_recorded_or_not(fused: bool) -> None:
    from pytorch_lightning.plugins.precision import MixedPrecision

    batches = Batches(number=40)
    for step in (3, 25, 26):
        x, y = batches.batches[step]
        batches.batches[step] = (x * 1e30, y)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scope = GradScope(summary=False)
    model = Classifier(mlp(), 1e-3, lambda p, lr: torch.optim.Adam(p, lr=lr, fused=fused))
    trainer(scope, plugins=[MixedPrecision("16-mixed", "cpu", scaler=scaler)]).fit(model, batches)
    run = scope.run
    assert (run.ledger.steps, run.ledger.skipped) == (40, 3)
    assert run.series("skipped")[list(run.steps).index(3)] == 1
    assert run.series("skipped").sum() == 1
    assert run.series("loss_scale")[0] == 1024
    assert run.series("loss_scale")[-1] == 128
    assert run.origin is None
