"""GradScope, the Lightning callback: decides when to measure, and owns nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from torch import Tensor
from torch.optim import Optimizer

from gradscope.every_step import StepWatch
from gradscope.lightning import options
from gradscope.lightning.actions import Action, Actions, Ending, GradScopeError
from gradscope.lightning.cadence import Cadence, StepClock
from gradscope.lightning.fit import Fit
from gradscope.lightning.monitored import Monitored
from gradscope.lightning.resumable import Resumable
from gradscope.lightning.resume import Memory
from gradscope.lightning.sinks import Resumption, Sinks
from gradscope.lightning.trainers import (
    begins_from_scratch,
    flush,
    gradients_are_left_alone,
    logged_step,
    loss_of,
    run_name,
    save_stopped,
    sinks_of,
)
from gradscope.messages import say
from gradscope.model.forward import FUNCTIONS
from gradscope.model.scaling import LossScale
from gradscope.patterns import NamePatterns
from gradscope.preflight import Preflight
from gradscope.recorder import Recorder
from gradscope.records import Finding, Record, Run, Severity
from gradscope.rules import diagnose
from gradscope.thresholds import Thresholds

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
        if trainer is not self._trainer and self._is_busy_elsewhere():
            if hook.__name__ == "on_fit_start":
                say(BUSY)
            return
        is_outermost, self._is_inside, start = not self._is_inside, True, time.perf_counter()
        try:
            hook(self, trainer, *args, **kwargs)
        except GradScopeError:
            raise  # the one thing that may end the training, for the user asked for it
        except Exception as error:
            self._switch_off(f"{hook.__name__} failed with {type(error).__name__}: {error}")
        finally:
            if is_outermost:  # whose time is that of all within it
                self._is_inside = False
                self._fit.seconds += time.perf_counter() - start

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
            recorded, and so are the first of a fit that goes on from a checkpoint without GradScope's state, and some
            after a record that looks like the beginning of a disaster. Steps count as on the x-axis of Lightning's
            loggers.
        budget: In place of `every_n_steps`: the share of the step time that GradScope may take, a number in (0, 1].
            It chooses the interval after the first 10 steps, reviews it ever more rarely, and ranks agree on it. Where
            even a look at every step costs more, as in steps of a few milliseconds, steps between records are only
            counted: no flight recorder then, and where a NaN was born is known of recorded steps alone.
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
        self._is_inside = False
        super().__init__()
        self._start_over()

    def _start_over(self) -> None:
        self._trainer: pl.Trainer | None = None
        self._fit = Fit(self.thresholds)
        self._cadence = Cadence(self._interval, self.budget)
        self._clock = StepClock(self._cadence)
        self._batch: object = None
        self._actions = Actions(self.on_finding, say)
        self._first_step: int | None = None
        self._began = time.time()
        self._sinks: Sinks | None = None
        self._monitored = Monitored()
        self._recording = False
        self._micro_batches = 0
        self._off = ""
        self._warned = False

    # What a user reads.

    @property
    def every_n_steps(self) -> int:
        """The steps between records: with a budget as it was chosen last."""
        return self._cadence.interval

    @property
    def run(self) -> Run:
        """The run so far: of a long fit the first, the newest and a choice of the records between, 2,000 at most."""
        off = {"GradScope": self._off} if self._off else {}
        return self._fit.run(self._cadence.interval, {**self._actions.unseen, **off}, stop=self._actions.stop)

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
        before = self._fit
        self._start_over()
        # Its end may be one that nobody told of: another callback's `on_exception` may have raised.
        try:
            before.detach()
        finally:
            before.ranks.part()
        self._trainer = trainer
        if next(c for c in trainer.callbacks if isinstance(c, GradScope)) is not self:  # type: ignore[attr-defined]  # undeclared
            self._switch_off(SECOND)
            return
        fit = self._fit
        self._cadence.alone = trainer.world_size == 1
        if not self._cadence.alone:
            fit.ranks.join(trainer.strategy, pl_module.device, self._actions.may_end_the_fit)
            fit.ranks.count(trainer.optimizers)
        fit.name = run_name(trainer)
        scale = LossScale(getattr(trainer.precision_plugin, "scaler", None))
        recorder = Recorder(
            pl_module,
            self.thresholds,
            self.layers,
            exact=self.exact,
            scale=scale,
            merge=fit.ranks.merge,
            wrapped=trainer.model,
        )
        watch = StepWatch(recorder.table, recorder.forward.trace, scale, self.flight_recorder)
        fit.watch_with(recorder, watch, Preflight(recorder), trainer.optimizers)
        self._monitored = Monitored(fit.columns)

    @_shielded
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Attach where a step begins that is due."""
        self._clock.start(self._fit.own_seconds)
        if self._first_step is None:
            self._begin(trainer)  # shielded by itself: whatever fails there, the other ranks count on what follows
        self._review(trainer)
        self._agree(trainer)
        due = self._cadence.due(logged_step(trainer))
        if due:
            self._fit.ranks.owe(trainer.global_step)
        if self._fit.recorder is None:
            return
        self._batch = batch
        if self._recording:
            self._fit.recorder.begin_batch()
        elif due and not self._off:
            self._recording, self._micro_batches = True, 0
            everything = self._cadence.alarmed() or pl_module.device.type != "cpu"
            untouched = gradients_are_left_alone(trainer, pl_module, self)
            self._fit.recorder.begin(trainer.optimizers, untouched, everything)
            if self._fit.preflight is not None:
                self._fit.preflight.begin(trainer.optimizers, begins_from_scratch(trainer))
        self._clock.recorded = self._recording

    @_shielded
    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Look at the loss, and stop listening: activation checkpointing runs the forward again, and so does LBFGS."""
        if self._fit.recorder is None:
            return
        if self._recording:
            self._fit.recorder.listening = False
            self._fit.recorder.forward.trace.end(loss)
            if self._fit.preflight is not None:
                self._fit.preflight.before_backward(loss)
            if pl_module.automatic_optimization:
                self._fit.recorder.end_forward()
        if self._looks():
            self._fit.tell_watch(lambda watch: watch.before_backward(logged_step(trainer), loss, self._batch))

    @_shielded
    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure before the user of manual optimization clips, and listen again: the step may go on to a forward."""
        if self._fit.recorder is not None and self._recording and not pl_module.automatic_optimization:
            self._fit.recorder.listening = True
            self._fit.recorder.after_backward()

    @_shielded
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Measure gradients that are not clipped yet."""
        if self._fit.recorder is None:
            return
        moment_of = self._fit.recorder.optimizers.before_idle_step
        known = any(optimizer is one for one in trainer.optimizers)
        own = optimizer if known else getattr(optimizer, "optimizer", optimizer)
        if self._recording:
            self._fit.recorder.before_optimizer_step(own)
        if self._looks():
            self._fit.tell_watch(lambda watch: watch.before_optimizer_step(logged_step(trainer), own, moment_of))
        else:
            self._fit.tell_watch(lambda watch: watch.count(own))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Go on with the record, and let others know the newest numbers."""
        self._end_of_train_batch(trainer, outputs)
        # Shielded by themselves: whatever failed there, the other ranks wait for an answer.
        if self._fit.ranks.merge is not None:
            self._answer(trainer)
        if self._monitored.news or self._has_failed() or self._fit.ranks.voices is not None:
            self._show(trainer)
        self._clock.stop(self._fit.own_seconds)

    @_shielded
    def _end_of_train_batch(self, trainer: pl.Trainer, outputs: Any) -> None:
        """End the record once an optimizer has stepped, and hand on what has arrived."""
        self._batch = None
        if self._fit.recorder is None:
            return
        loss = loss_of(trainer, outputs) if self._looks() else None
        self._fit.tell_watch(lambda watch: watch.end_batch(logged_step(trainer), loss))
        if self._recording:
            if self._fit.preflight is not None:
                self._fit.preflight.end_batch()
            self._end_batch(self._fit.recorder, logged_step(trainer), loss)
        self._fit.announce_failures()
        looked_at = self._monitored.is_looked_at(logged_step(trainer), trainer.is_last_batch)
        while (record := self._fit.recorder.poll(wait=looked_at)) is not None:
            self._keep(trainer, record)
        if self._cadence.alone:
            self._end_fit(trainer, self._actions.agreed(None))

    @_shielded
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Do not listen, also where the model refused the batch that had begun."""
        if self._fit.recorder is not None:
            self._fit.recorder.end_forward()

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
        self._say_if_nothing_came()
        self._leave(trainer)  # shielded by itself: whatever fails there, the other ranks wait for an answer
        self._show(trainer, looked_at=True)
        ending = self._actions.agreed(self._fit.ranks.voices)
        if ending is not None and ending.action is Action.RAISE:
            self._end_fit(trainer, ending)

    @_shielded
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Say what is found: an exception or Ctrl-C ended the fit, and Lightning calls no `teardown`."""
        try:
            self._finish(trainer)
        finally:
            self._trainer = None
            self._fit.ranks.part()

    @_shielded
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave nothing attached, and hold nothing of the model."""
        self._trainer = None
        self._detach()
        self._release()  # also where no `on_train_end` came: a fit of no epochs
        self._fit.ranks.part()
        for method_of_the_model in ("log", "log_dict"):  # Lightning lends them to every callback and takes none back
            self.__dict__.pop(method_of_the_model, None)

    # What happens in between.

    def _is_busy_elsewhere(self) -> bool:
        """Say whether the fit that is watched goes on; one that ended without a word does not."""
        return self._trainer is not None and self._trainer.state.status == "running"

    def _has_failed(self) -> bool:
        return bool(self._off or (self._fit.recorder is not None and self._fit.recorder.failures))

    def _looks(self) -> bool:
        """Say whether the step under way is looked at, be it recorded or not."""
        return self._recording or not self._cadence.bare

    @_shielded
    def _catch_up(self, trainer: pl.Trainer) -> None:
        """Take in what is under way."""
        self._keep_the_rest(trainer)

    @_shielded
    def _show(self, trainer: pl.Trainer, looked_at: bool = False) -> None:
        """Let EarlyStopping and its like see the newest numbers; ranks ask for them also where that has failed."""
        if self._has_failed():
            self._monitored.fail()
        try:
            now = self._monitored.is_looked_at(logged_step(trainer), trainer.is_last_batch)
            self._monitored.show(trainer, looked_at or now, self._fit.ranks.voices)
        except Exception as error:
            if "callback_metrics" not in self._fit.unseen:
                self._fit.unseen["callback_metrics"] = f"not kept up to date after {type(error).__name__}: {error}"
                say(f"callback_metrics are {self._fit.unseen['callback_metrics']}. Everything else goes on.")

    @_shielded
    def _answer(self, trainer: pl.Trainer) -> None:
        """Send nothing where the other ranks wait for a record that does not come."""
        self._fit.ranks.answer(trainer.global_step, self._off)

    @_shielded
    def _settle(self, trainer: pl.Trainer) -> None:
        """Hear the last news of all ranks: what any of them has seen belongs in the last verdict."""
        try:
            self._keep_the_rest(trainer)
            self._fit.tell_ranks()
        finally:
            self._fit.ranks.settle()

    def _review(self, trainer: pl.Trainer) -> None:
        """Choose the interval anew where it is time: on every rank, also on one where GradScope has failed."""
        if self._cadence.wants_review(logged_step(trainer)):
            plan = self._cadence.plan()
            # All take what rank zero says, so that all record the same steps.
            voices = self._fit.ranks.voices
            self._cadence.follow(plan if voices is None else voices.broadcast(plan))
            if self._cadence.bare:
                self._fit.leave_steps_bare()

    def _agree(self, trainer: pl.Trainer) -> None:
        """Let several ranks end the fit together, right after a step that each of them knows to be recorded."""
        step = logged_step(trainer)
        voices = self._fit.ranks.voices
        if voices is not None and self._actions.wants_agreement(step) and self._cadence.due(step - 1):
            self._end_fit(trainer, self._actions.agreed(voices))

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

    def _end_batch(self, recorder: Recorder, step: int, loss: Tensor | None) -> None:
        recorder.end_batch(loss)
        self._warn_of_gaps(recorder)
        self._micro_batches += 1
        if recorder.stepped:
            self._fit.tell_ranks()
            recorder.end(step)
            self._fit.ranks.hear()
            self._recording = False
        elif self._micro_batches == MICRO_BATCH_LIMIT:
            self._switch_off(f"no optimizer stepped in {MICRO_BATCH_LIMIT:,} batches")

    def _keep(self, trainer: pl.Trainer, record: Record) -> None:
        self._fit.history.add(record)
        self._monitored.hear(record)
        if self._fit.ranks.voices is None:  # before a logger has a thread of its own write, which takes the interpreter
            self._show(trainer)
        self._fit.has_recorded()
        alarming = self._cadence.alarm.hear(record)
        if not trainer.is_global_zero:
            return
        if self._sinks is None:
            self._sinks = self._open_sinks(trainer)
        self._sinks.tell(lambda sink: sink.record(record))
        if self._cadence.wants_diagnosis(self._fit.history.added, alarming):
            self._judge()

    def _open_sinks(self, trainer: pl.Trainer) -> Sinks:
        sinks = sinks_of(trainer, self._fit.columns, self._parts, say)
        if step := self._first_step:
            before = [record for record in self._fit.history.records if record.step < step]
            resumption = Resumption(step, self._began, before, self._fit.logs)
            sinks.tell(lambda sink: sink.resume(resumption))
        self._fit.logs = sinks.logs
        return sinks

    def _is_under_way(self) -> bool:
        return self._trainer is not None and self._first_step is not None

    def _memory(self) -> Memory | None:
        start = time.perf_counter()
        if self._trainer is not None:
            self._keep_the_rest(self._trainer)
        if self._fit.preflight is not None:
            self._fit.preflight.setup(wait=True)
        if self._sinks is not None:  # a checkpoint must not know more than the log
            self._sinks.tell(lambda sink: sink.flush())
        cadence, known = self._cadence.state(), self._actions.known()
        silence, window = self._fit.silence(), self._fit.window()
        if not self._is_inside:  # as where GradScope itself asks for a checkpoint
            self._fit.seconds += time.perf_counter() - start
        if not self._fit.history.added:
            return None
        return Memory(self.run, cadence, known, silence, window, self._fit.logs)

    @_shielded
    def _begin(self, trainer: pl.Trainer) -> None:
        """Begin the fit at the step that comes next, from what was loaded if anything was."""
        self._first_step = step = logged_step(trainer)
        memory, self._loaded = self._loaded, None
        if memory is not None:  # first of all: ranks go by the cadence, also one on which something has failed
            self._cadence.restore(memory.cadence)
            if self._cadence.bare:
                self._fit.leave_steps_bare()
        self._cadence.begin(step)
        if memory is not None and self._fit.recorder is not None:
            self._actions.restore(memory.findings)
            self._fit.take_up(memory, self._fit.recorder)
            self._fit.history.forget_from(step)

    def _finish(self, trainer: pl.Trainer) -> None:
        if self._fit.recorder is None:
            return
        self._fit.end()
        self._detach()
        self._keep_the_rest(trainer)
        self._fit.announce_failures()
        self._fit.keep_flights(self.findings)
        self._release()
        if trainer.is_global_zero and self._fit.history.records:
            findings = self._judge(final=True)
            if self.summary:
                from gradscope.terminal import print_report

                print_report(self.run, findings)  # with what failed meanwhile
        self._sinks = None

    def _say_if_nothing_came(self) -> None:
        """Say why a fit has no record: nobody should have to guess why there is no summary, nor a tab."""
        if self._micro_batches and not self._has_failed() and not self._fit.history.added:
            nobody = "no optimizer stepped that configure_optimizers gave"
            self._fit.unseen["records"] = f"none, for {nobody}"
            say(f"has nothing to show: {nobody}. One that the model keeps to itself is not heard.")

    def _keep_the_rest(self, trainer: pl.Trainer) -> None:
        while self._fit.recorder is not None and (record := self._fit.recorder.poll(wait=True)) is not None:
            self._keep(trainer, record)

    def _release(self) -> None:
        self._fit.release()
        self._trainer = None

    def _detach(self) -> None:
        self._fit.detach()
        self._batch = None

    def _judge(self, final: bool = False) -> tuple[Finding, ...]:
        """Judge the run, and tell all who go by it: those who monitor, the actions and the loggers."""
        run = self.run
        findings = diagnose(run)
        self._monitored.judge(findings)
        self._fit.keep_flights(findings)
        if final:
            self._actions.hear_the_last(findings, int(run.steps[-1]), self.summary)
        else:
            self._actions.hear(findings, int(run.steps[-1]))
        run = replace(run, flights=self._fit.flights)
        if self._sinks is not None:
            self._sinks.tell(lambda sink: sink.verdicts(run, findings, final))
        return findings

    def _warn_of_gaps(self, recorder: Recorder) -> None:
        """Say once, after the first recorded batch, what the model or `layers` leave nothing to see of."""
        if not self._warned:
            self._warned = True
            for gap in recorder.table.gaps(self.layers, recorder.forward.unseen().get(FUNCTIONS, "none was called")):
                say(gap)

    def _switch_off(self, reason: str) -> None:
        try:
            self._detach()
        except Exception as error:
            reason = f"{reason}; what was attached could not be taken off after {type(error).__name__}: {error}"
        self._recording = False
        if not self._off:
            self._off = f"switched itself off: {reason}"
            say(f"{self._off}. The training goes on without it.")
