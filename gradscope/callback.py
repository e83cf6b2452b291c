"""GradScope, the Lightning callback: decides when to measure, and owns nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradscope import options
from gradscope.actions import Action, Actions, Ending, GradScopeError, Ranks
from gradscope.cadence import Cadence, StepClock
from gradscope.every_step import StepWatch, earliest_origin
from gradscope.forward import FUNCTIONS
from gradscope.history import History
from gradscope.messages import say
from gradscope.monitored import Monitored
from gradscope.patterns import NamePatterns
from gradscope.preflight import Preflight
from gradscope.ranks.group import Group
from gradscope.ranks.merging import Facts, RankMerge
from gradscope.recorder import Recorder
from gradscope.records import Coverage, Finding, Flight, Ledger, Metric, Origin, Overhead, Record, Run, Setup, Severity
from gradscope.resumable import Resumable
from gradscope.resume import Memory, Units, records_of, restricted
from gradscope.rules import diagnose
from gradscope.scaling import LossScale
from gradscope.sinks import Resumption, Sinks
from gradscope.thresholds import Thresholds
from gradscope.trainers import (
    begins_from_scratch,
    flush,
    gradients_are_left_alone,
    logged_step,
    loss_of,
    run_name,
    save_stopped,
    sinks_of,
)
from gradscope.wording import counted

if TYPE_CHECKING:
    import pytorch_lightning as pl  # of either package

P = ParamSpec("P")

BUSY = (
    "watches one fit at a time, and the fit of another Trainer goes on: this one is not watched. "
    "Give each Trainer a GradScope of its own."
)
SECOND = "this Trainer has another, which watches its fits; leave one of them out"

MICRO_BATCH_LIMIT = 10_000
"""Batches without a step of any optimizer after which a record is given up: each holds a little memory."""


Hook = Callable[Concatenate["GradScope", "pl.Trainer", P], None]


def _shielded(hook: Hook[P]) -> Hook[P]:
    """Make a hook that never raises into the training: what fails switches GradScope off, and says so once.

    It hears nothing of another Trainer while a fit goes on.
    """

    @wraps(hook)
    def shielded(self: GradScope, trainer: pl.Trainer, /, *args: P.args, **kwargs: P.kwargs) -> None:
        if self._is_busy_elsewhere(trainer):
            if hook.__name__ == "on_fit_start":
                say(BUSY)
            return
        start = time.perf_counter()
        try:
            hook(self, trainer, *args, **kwargs)
        except GradScopeError:
            raise  # the one thing that may end the training, for the user asked for it
        except Exception as error:
            self._switch_off(f"{hook.__name__} failed with {type(error).__name__}: {error}")
        self._seconds += time.perf_counter() - start

    return shielded


class GradScope(Resumable):
    """Watches the health of gradients and activations while a network trains.

    ``Trainer(callbacks=[GradScope()])`` is all. Training is the same with and without it: it draws no random number,
    changes no tensor, and whatever fails inside it switches itself off and says so. A fit that is resumed with
    ``ckpt_path`` goes on with its record; without it a fit begins a new one.

    Logged to a `TensorBoardLogger`, in its own file: ``gradscope/<metric>`` (one tensor of all layers for each
    metric), ``gradscope/<metric>/<statistic>`` (scalars over layers), ``gradscope_<metric>/<layer>`` (scalars while
    there are at most 32 layers), ``gradscope/log10_grad_norm_over_layers`` (histogram),
    ``gradscope/heat_map/grad_norm`` (image, at the end) and ``gradscope/verdict`` (text). Any other logger is given the
    scalars, and three of them the verdict, each as it can show it: ``CSVLogger`` as ``gradscope_verdict.md`` beside its
    ``metrics.csv``, ``MLFlowLogger`` as the artifact ``gradscope/verdict.md``, ``WandbLogger`` at the end as the table
    ``gradscope/verdict``, the last two also in brief as tags or in the run's summary (``gradscope/in_short``,
    ``gradscope/worst_severity``).

    For EarlyStopping, ModelCheckpoint and learning rate schedulers, ``trainer.callback_metrics`` holds the newest
    ``gradscope/total_norm``, ``gradscope/update_ratio/median``, ``gradscope/dead_fraction/max``,
    ``gradscope/saturated_fraction/max`` (those that the net has) and ``gradscope/critical_findings``, their number when
    the run was last judged. On several ranks all are given those of rank zero, as they were when an epoch ended or
    validation started; a step that a GradScaler skipped changes nothing.

    It watches one fit at a time. One that follows, of the same Trainer or of another, starts over.

    Args:
        every_n_steps: Record every so many steps, an integer of at least 1, by default 10; the first 10 steps are all
            recorded, and so are some after a record that looks like the beginning of a disaster. Steps count as on
            the x-axis of Lightning's loggers.
        budget: In place of `every_n_steps`: the share of the step time that GradScope may take, a number in (0, 1].
            It chooses the interval after the first 10 steps, reviews it ever more rarely, and ranks agree on it.
        layers: Glob patterns on names as in ``model.named_modules()``; a leading ``!`` excludes:
            ``["encoder.*", "!*.norm"]``. A layer that is not watched still counts in the total norm.
        thresholds: What the rules judge by.
        exact: Measure update ratios and activations from all elements, not from a sample of them.
        flight_recorder: Steps before a disaster to keep, every one of them: loss and gradient norms, written out when
            a critical finding appears. 0 keeps none.
        on_finding: What to do when a finding appears or grows worse: ``"ignore"``, ``"warn"`` (a line at the console),
            ``"stop"`` (end the fit cleanly) or ``"raise"`` (`GradScopeError`). One action is for warnings and critical
            findings; a mapping such as ``{"warning": "warn", "critical": "stop"}`` goes by severity.
        log: What goes to the loggers: True for all, False for nothing, or any of ``"tensors"`` (what
            `gradscope summary` reads), ``"scalars"``, ``"layers"``, ``"distribution"``, ``"heat_map"``, ``"verdicts"``.
        summary: Print the summary at the end of a fit, on rank zero.

    Raises:
        TypeError: an option is of the wrong type or unknown.
        ValueError: an option is out of its range.
    """

    def __init__(
        self,
        *,
        every_n_steps: int | None = None,
        budget: float | None = None,
        layers: str | Sequence[str] = "*",
        thresholds: Thresholds | None = None,
        exact: bool = False,
        flight_recorder: int = 50,
        on_finding: str | Mapping[str | Severity, str] = "warn",
        log: bool | Collection[str] = True,
        summary: bool = True,
    ) -> None:
        self.budget = options.budget(budget)
        self._interval = options.every_n_steps(every_n_steps, self.budget)
        self.exact = options.exact(exact)
        self.flight_recorder = options.flight_recorder(flight_recorder)
        self.on_finding = options.on_finding(on_finding)
        self.thresholds = options.thresholds(thresholds)
        self.layers = NamePatterns(options.patterns(layers))
        self.summary = options.summary(summary)
        self._parts = options.log_parts(log)  # Lightning overwrites `log` of every callback
        super().__init__()
        self._start_over()

    def _start_over(self) -> None:
        self._trainer: pl.Trainer | None = None
        self._recorder: Recorder | None = None
        self._watch: StepWatch | None = None
        self._preflight: Preflight | None = None
        self._setup = Setup()
        self._ranks: RankMerge | None = None
        self._voices: Ranks | None = None
        self._facts = Facts()
        self._cadence = Cadence(self._interval, self.budget)
        self._clock = StepClock(self._cadence)
        self._batch: object = None
        self._origin: Origin | None = None
        self._ledger = Ledger()
        self._flights: dict[str, Flight] = {}
        self._actions = Actions(self.on_finding, say)
        self._history = History()
        self._units: Units = {}
        self._window: Flight | None = None
        self._first_step: int | None = None
        self._began = time.time()
        self._logs: tuple[str, ...] = ()
        self._covered: Coverage | None = None
        self._sinks: Sinks | None = None
        self._monitored = Monitored()
        self._name = "fit"
        self._recording = False
        self._micro_batches = 0
        self._off = ""
        self._warned = False
        self._columns: tuple[Metric, ...] = ()
        self._unseen: dict[str, str] = {}
        self._measured: Mapping[str, int] = {}
        self._announced: set[str] = set()
        self._seconds = 0.0
        self._started = time.perf_counter()
        self._ended: float | None = None

    # What a user reads.

    @property
    def every_n_steps(self) -> int:
        """The steps between records: with a budget as it was chosen last."""
        return self._cadence.interval

    @property
    def run(self) -> Run:
        """The run so far: of a long fit the first, the newest and a choice of the records between, 2,000 at most."""
        in_hooks = self._recorder.seconds if self._recorder else 0.0
        lasted = (self._ended or time.perf_counter()) - self._started
        return Run.from_records(
            self._name,
            self._history.records,
            self._columns,
            thresholds=self.thresholds,
            coverage=self._coverage(),
            overhead=Overhead(self._history.added, self._seconds + in_hooks, lasted, self._cadence.interval),
            ledger=self._counted(),
            setup=self._setup_now(),
            origin=self._first_origin(),
            rank_outliers=self._facts.outliers,
            flights=dict(self._flights),
            stop=self._actions.stop,
        )

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong with the run so far, the most severe first; empty before a fit."""
        return diagnose(self.run)

    @property
    def stopped(self) -> Finding | None:
        """The finding for which GradScope ended the fit, as `on_finding` told it to: None where it did not."""
        return self._actions.stopped

    def _repr_html_(self) -> str:
        return self.run._repr_html_()

    # What Lightning calls.

    @_shielded
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the model; hooks come with the first step."""
        self._start_over()
        self._trainer = trainer
        if next(c for c in trainer.callbacks if isinstance(c, GradScope)) is not self:  # type: ignore[attr-defined]
            self._switch_off(SECOND)
            return
        self._join_ranks(trainer, pl_module.device)
        self._name = run_name(trainer)
        scale = LossScale(getattr(trainer.precision_plugin, "scaler", None))
        self._recorder = Recorder(
            pl_module, self.thresholds, self.layers, self.exact, scale, self._ranks, trainer.model
        )
        self._preflight = Preflight(self._recorder)
        self._columns = self._recorder.columns
        self._monitored = Monitored(self._columns)
        self._watch = StepWatch(self._recorder.table, self._recorder.forward.trace, scale, self.flight_recorder)
        self._watch.attach(trainer.optimizers)
        self._cadence.alone = trainer.world_size == 1

    @_shielded
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Attach where a step begins that is due."""
        if self._first_step is None:
            self._begin(logged_step(trainer))
        self._review(trainer)
        self._agree(trainer)
        if self._ranks is not None and self._cadence.due(logged_step(trainer)):
            self._ranks.owe(trainer.global_step)
        if self._recorder is None:
            return
        self._batch = batch
        self._clock.start(self._seconds + self._recorder.seconds)
        if self._recording:
            self._recorder.begin_batch()
        elif not self._off and self._cadence.due(logged_step(trainer)):
            self._recording, self._micro_batches = True, 0
            everything = self._cadence.alarmed() or pl_module.device.type != "cpu"
            untouched = gradients_are_left_alone(trainer, pl_module, self)
            self._recorder.begin(trainer.optimizers, untouched, everything)
            if self._preflight is not None:
                self._preflight.begin(trainer.optimizers, begins_from_scratch(trainer))
        self._clock.recorded = self._recording

    @_shielded
    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Look at the loss, and stop listening: activation checkpointing runs the forward again, and so does LBFGS."""
        if self._recorder is None:
            return
        if self._recording:
            self._recorder.listening = False
            self._recorder.forward.trace.end(loss)
            if self._preflight is not None:
                self._preflight.before_backward(loss)
            if pl_module.automatic_optimization:
                self._recorder.end_forward()
        self._tell_watch(lambda watch: watch.before_backward(logged_step(trainer), loss, self._batch))

    @_shielded
    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure before the user of manual optimization clips, and listen again: the step may go on to a forward."""
        if self._recorder is not None and self._recording and not pl_module.automatic_optimization:
            self._recorder.listening = True
            self._recorder.after_backward()

    @_shielded
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Measure gradients that are not clipped yet."""
        if self._recorder is None:
            return
        bare, moment = getattr(optimizer, "optimizer", optimizer), self._recorder.idle_step_of
        if self._recording:
            self._recorder.before_optimizer_step(bare)
        self._tell_watch(lambda watch: watch.before_optimizer_step(logged_step(trainer), bare, moment))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Go on with the record, and let others know the newest numbers."""
        self._end_of_train_batch(trainer, outputs)
        self._answer(trainer)  # shielded by themselves: whatever failed there, the other ranks wait for an answer
        self._show(trainer)
        self._clock.stop()

    @_shielded
    def _end_of_train_batch(self, trainer: pl.Trainer, outputs: Any) -> None:
        """End the record once an optimizer has stepped, and hand on what has arrived."""
        self._batch = None
        if self._recorder is None:
            return
        loss = loss_of(trainer, outputs)
        self._tell_watch(lambda watch: watch.end_batch(logged_step(trainer), loss))
        if self._recording:
            if self._preflight is not None:
                self._preflight.end_batch()
            self._end_batch(self._recorder, logged_step(trainer), loss)
        self._announce_failures(self._recorder)
        looked_at = self._monitored.is_looked_at(logged_step(trainer), trainer.is_last_batch)
        while (record := self._recorder.poll(wait=looked_at)) is not None:
            self._keep(trainer, record)
        if trainer.world_size == 1:
            self._end_fit(trainer, self._actions.agreed(None))

    @_shielded
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Do not listen, also where the model refused the batch that had begun."""
        if self._recorder is not None:
            self._recorder.end_forward()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Do not listen, and let those who look when validation ends know the newest numbers."""
        self.on_train_epoch_end(trainer, pl_module)
        if trainer is self._trainer and not trainer.sanity_checking:
            self._catch_up(trainer)
            self._show(trainer, looked_at=True)

    @_shielded
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say what is found, and raise if that was asked for."""
        if self.stopped is not None:
            save_stopped(trainer)
        self._settle(trainer)
        self._leave(trainer)  # shielded by itself: whatever fails there, the other ranks wait for an answer
        self._show(trainer, looked_at=True)
        ending = self._actions.agreed(self._voices)
        if ending is not None and ending.action is Action.RAISE:
            self._end_fit(trainer, ending)

    @_shielded
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Say what is found: an exception or Ctrl-C ended the fit, and Lightning calls no `teardown`."""
        try:
            self._finish(trainer)
        finally:
            self._trainer = None
            self._part()

    @_shielded
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave nothing attached, and hold nothing of the model."""
        self._trainer = None
        self._detach()
        if self._recorder is not None:  # no `on_train_end` came: a fit of no epochs
            self._release(self._recorder)
        self._part()
        for method_of_the_model in ("log", "log_dict"):  # Lightning lends them to every callback and takes none back
            self.__dict__.pop(method_of_the_model, None)

    # What happens in between.

    def _is_busy_elsewhere(self, trainer: pl.Trainer) -> bool:
        """Say whether the fit of another Trainer goes on; one that ended without a word does not."""
        busy = self._trainer is not None and self._trainer is not trainer
        return busy and self._trainer.state.status == "running"  # type: ignore[union-attr]

    @_shielded
    def _catch_up(self, trainer: pl.Trainer) -> None:
        """Take in what is under way."""
        self._keep_the_rest(trainer)

    @_shielded
    def _show(self, trainer: pl.Trainer, looked_at: bool = False) -> None:
        """Let EarlyStopping and its like see the newest numbers; ranks ask for them also where that has failed."""
        if self._off or (self._recorder is not None and self._recorder.failures):
            self._monitored.fail()
        try:
            now = self._monitored.is_looked_at(logged_step(trainer), trainer.is_last_batch)
            self._monitored.show(trainer, looked_at or now, self._voices)
        except Exception as error:
            if "callback_metrics" not in self._unseen:
                self._unseen["callback_metrics"] = f"not kept up to date after {type(error).__name__}: {error}"
                say(f"callback_metrics are {self._unseen['callback_metrics']}. Everything else goes on.")

    def _join_ranks(self, trainer: pl.Trainer, device: torch.device) -> None:
        """Come together with the other ranks. Where that fails, each goes on by itself."""
        if trainer.world_size == 1:
            return
        try:
            group = Group.joined(device)
        except Exception as error:
            self._leave_ranks(f"could not be reached after {type(error).__name__}: {error}")
            return
        if group is None:
            self._voices = trainer.strategy
            self._leave_ranks("are not known to torch.distributed")
        else:
            self._ranks, self._voices = RankMerge(group), group

    def _part(self) -> None:
        if self._ranks is not None:
            self._ranks.leave()
        self._ranks = self._voices = None

    def _leave_ranks(self, why: str) -> None:
        self._unseen["other ranks"] = f"{why}: activations are those of rank zero"
        say(f"other ranks {self._unseen['other ranks']}. Everything else goes on.")
        if self._voices is None and self._actions.may_end_the_fit:
            self._unseen["on_finding"] = "ends no fit of several ranks, as these cannot agree on it"

    def _tell_ranks(self, ranks: RankMerge) -> None:
        """Have ready what the other ranks are to know."""
        origin = self._own_origin()
        never_called = self._preflight.setup().never_called if self._preflight and self._preflight.is_done else None
        ranks.own = Facts(replace(origin, rank=ranks.rank) if origin else None, never_called)

    @_shielded
    def _answer(self, trainer: pl.Trainer) -> None:
        """Send nothing where the other ranks wait for a record that does not come."""
        if self._ranks is not None:
            self._ranks.answer(trainer.global_step, self._off)

    @_shielded
    def _settle(self, trainer: pl.Trainer) -> None:
        """Hear the last news of all ranks: what any of them has seen belongs in the last verdict."""
        if self._ranks is None:
            return
        try:
            self._keep_the_rest(trainer)
            self._tell_ranks(self._ranks)
        finally:
            self._ranks.settle()
            self._hear_ranks()

    def _merged_ranks(self) -> dict[str, int]:
        return {"ranks": self._ranks.size} if self._ranks is not None and not self._ranks.ended else {}

    def _hear_ranks(self) -> None:
        if self._ranks is not None:
            self._facts = self._ranks.all
            if self._ranks.ended and "other ranks" not in self._unseen:
                self._voices = None if self._ranks.is_lost else self._voices
                self._leave_ranks(self._ranks.ended)

    def _review(self, trainer: pl.Trainer) -> None:
        """Choose the interval anew where it is time: on every rank, also on one where GradScope has failed."""
        if self._cadence.wants_review(logged_step(trainer)):
            interval = self._cadence.affordable_interval()
            # All take what rank zero says, so that all record the same steps.
            self._cadence.interval = self._voices.broadcast(interval) if self._voices is not None else interval

    def _agree(self, trainer: pl.Trainer) -> None:
        """Let several ranks end the fit together, right after a step that each of them knows to be recorded."""
        step = logged_step(trainer)
        if self._voices is not None and self._actions.wants_agreement(step) and self._cadence.due(step - 1):
            self._end_fit(trainer, self._actions.agreed(self._voices))

    def _end_fit(self, trainer: pl.Trainer, ending: Ending | None) -> None:
        if ending is None:
            return
        self._actions.carry_out(ending, logged_step(trainer))
        if ending.action is Action.RAISE:
            self._leave(trainer)
            raise GradScopeError(ending.finding)
        trainer.should_stop = True

    @_shielded
    def _leave(self, trainer: pl.Trainer) -> None:
        """Have everything written down."""
        self._finish(trainer)
        flush(trainer)

    def _tell_watch(self, tell: Callable[[StepWatch], None]) -> None:
        """Tell the watch of every step; where it fails it is off, and the records go on."""
        if self._watch is None:
            return
        try:
            tell(self._watch)
        except Exception as error:
            self._watch.detach()
            self._watch = None
            self._unseen["every step"] = f"no longer looked at after {type(error).__name__}: {error}"
            say(f"every step is {self._unseen['every step']}. Everything else goes on.")

    def _end_batch(self, recorder: Recorder, step: int, loss: Tensor | None) -> None:
        recorder.end_batch(loss)
        self._warn_of_gaps(recorder)
        self._micro_batches += 1
        if recorder.stepped:
            if self._ranks is not None:
                self._tell_ranks(self._ranks)
            recorder.end(step)
            self._hear_ranks()
            self._recording = False
        elif self._micro_batches == MICRO_BATCH_LIMIT:
            self._switch_off(f"no optimizer stepped in {MICRO_BATCH_LIMIT:,} batches")

    def _keep(self, trainer: pl.Trainer, record: Record) -> None:
        self._history.add(record)
        self._monitored.hear(record)
        self._covered = None
        alarming = self._cadence.alarm.hear(record)
        if not trainer.is_global_zero:
            return
        if self._sinks is None:
            self._sinks = self._open_sinks(trainer)
        self._sinks.tell(lambda sink: sink.record(record))
        if self._cadence.wants_diagnosis(self._history.added, alarming):
            self._write_verdicts(final=False)

    def _open_sinks(self, trainer: pl.Trainer) -> Sinks:
        sinks = sinks_of(trainer, self._columns, self._parts, say)
        if step := self._first_step:
            before = [record for record in self._history.records if record.step < step]
            resumption = Resumption(step, self._began, before, self._logs)
            sinks.tell(lambda sink: sink.resume(resumption))
        self._logs = sinks.logs
        return sinks

    def _is_under_way(self) -> bool:
        return self._trainer is not None and self._first_step is not None

    def _memory(self) -> Memory | None:
        start = time.perf_counter()
        if self._recorder is not None and self._trainer is not None:
            while (record := self._recorder.poll(wait=True)) is not None:
                self._keep(self._trainer, record)
            self._units = self._recorder.memory()
            self._tell_watch(self._keep_window)
        if self._preflight is not None:
            self._preflight.setup(wait=True)
        if self._sinks is not None:  # a checkpoint must not know more than the log
            self._sinks.tell(lambda sink: sink.flush())
        cadence, known = self._cadence.state(), self._actions.known()
        self._seconds += time.perf_counter() - start
        if not self._history.added:
            return None
        return Memory(self.run, cadence, known, self._units, self._window, self._logs)

    def _keep_window(self, watch: StepWatch) -> None:
        self._window = watch.flight()

    def _begin(self, step: int) -> None:
        """Begin the fit at `step`, from what was loaded if anything was."""
        self._first_step = step
        memory, self._loaded = self._loaded, None
        if memory is not None:  # first of all: ranks go by the cadence, also one on which something has failed
            self._cadence.restore(memory.cadence)
        self._cadence.begin(step)
        if memory is not None and self._recorder is not None:
            self._take_up(memory, self._recorder)
            self._history.forget_from(step)

    def _take_up(self, memory: Memory, recorder: Recorder) -> None:
        run = restricted(memory.run, recorder.table.may_have, self._columns)
        self._history.restore(records_of(run), run.overhead.records)
        self._actions.restore(memory.findings)
        self._ledger, self._origin, self._flights = run.ledger, run.origin, dict(run.flights)
        self._seconds += run.overhead.gradscope_seconds
        self._started -= run.overhead.fit_seconds
        self._logs, self._covered = memory.logs, run.coverage
        recorder.remember(memory.units)
        if self._preflight is not None:
            self._preflight.restore(run.setup)
        self._tell_watch(lambda watch: watch.restore(memory.window))
        if lost := len(memory.run.layers) - len(run.layers):
            say(f"goes on without {counted(lost, 'layer')} of the checkpoint that this model does not have or watch.")

    def _counted(self) -> Ledger:
        """How many steps there were, those before a checkpoint included."""
        if self._watch is None:
            return self._ledger
        now = self._watch.ledger()
        return Ledger(self._ledger.steps + now.steps, self._ledger.skipped + now.skipped)

    def _finish(self, trainer: pl.Trainer) -> None:
        if self._recorder is None:
            return
        self._ended = time.perf_counter()
        self._detach()
        self._keep_the_rest(trainer)
        self._announce_failures(self._recorder)
        self._keep_flights(self.findings)
        self._release(self._recorder)
        if trainer.is_global_zero and self._history.records:
            self._write_verdicts(final=True)
            if self.summary:
                from gradscope.cli.summary import print_report

                print_report(self.run, self.findings)
        self._sinks = None

    def _keep_the_rest(self, trainer: pl.Trainer) -> None:
        while self._recorder is not None and (record := self._recorder.poll(wait=True)) is not None:
            self._keep(trainer, record)

    def _release(self, recorder: Recorder) -> None:
        """Let go of the model and its optimizers: the user may want their memory back."""
        coverage = self._covered_by(recorder)
        self._unseen.update(coverage.unseen)
        self._measured = {**coverage.measured, **self._merged_ranks()}
        self._seconds += recorder.seconds
        self._origin = self._first_origin()
        self._units = recorder.memory()
        self._tell_watch(self._keep_window)
        self._ledger = self._counted()
        self._setup = self._setup_now()
        self._recorder = self._watch = self._preflight = self._trainer = None

    def _detach(self) -> None:
        if self._recorder is not None:
            self._recorder.release()
        if self._watch is not None:
            self._watch.detach()
        self._batch = None

    def _write_verdicts(self, final: bool) -> None:
        run = self.run
        findings = diagnose(run)
        self._monitored.judge(findings)
        self._keep_flights(findings)
        if final:
            self._actions.hear_the_last(findings, int(run.steps[-1]), self.summary)
        else:
            self._actions.hear(findings, int(run.steps[-1]))
        run = replace(run, flights=dict(self._flights))
        if self._sinks is not None:
            self._sinks.tell(lambda sink: sink.verdicts(run, findings, final))

    def _keep_flights(self, findings: Sequence[Finding]) -> None:
        new = [f.code for f in findings if f.severity is Severity.CRITICAL and f.code not in self._flights]

        def keep(watch: StepWatch) -> None:
            if (flight := watch.flight()) is not None:
                self._flights.update(dict.fromkeys(new, flight))

        if new:
            self._tell_watch(keep)

    def _first_origin(self) -> Origin | None:
        return self._facts.origin or self._own_origin()

    def _own_origin(self) -> Origin | None:
        seen = self._recorder.origin if self._recorder else None
        return earliest_origin(seen, self._watch.origin if self._watch else None, self._origin)

    def _setup_now(self) -> Setup:
        setup = self._preflight.setup() if self._preflight else self._setup
        never_called = self._facts.never_called
        return setup if never_called is None else replace(setup, never_called=never_called)

    def _coverage(self) -> Coverage:
        coverage = self._covered_by(self._recorder) if self._recorder else Coverage({}, self._measured)
        off = {"GradScope": self._off} if self._off else {}
        measured = {**coverage.measured, **self._merged_ranks()}
        return Coverage({**self._unseen, **coverage.unseen, **self._actions.unseen, **off}, measured)

    def _covered_by(self, recorder: Recorder) -> Coverage:
        """What was measured: before the first record of a resumed fit what had been until the checkpoint."""
        return recorder.coverage() if self._covered is None else self._covered

    def _warn_of_gaps(self, recorder: Recorder) -> None:
        """Say once, after the first recorded batch, what the model or `layers` leave nothing to see of."""
        if not self._warned:
            self._warned = True
            for gap in recorder.table.gaps(self.layers, recorder.forward.unseen().get(FUNCTIONS, "none was called")):
                say(gap)

    def _announce_failures(self, recorder: Recorder) -> None:
        for slot in recorder.failures.keys() - self._announced:
            self._announced.add(slot)
            say(f"{slot} {recorder.failures[slot]}. Everything else goes on.")

    def _switch_off(self, reason: str) -> None:
        try:
            self._detach()
        except Exception as error:
            reason = f"{reason}; what was attached could not be taken off after {type(error).__name__}: {error}"
        self._recording = False
        if not self._off:
            self._off = f"switched itself off: {reason}"
            say(f"{self._off}. The training goes on without it.")
