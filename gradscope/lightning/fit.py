"""One fit: what watches it while it lasts, and what is known of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gradscope.every_step import StepWatch, earliest_origin
from gradscope.history import History
from gradscope.lightning.resume import Memory, Silence, records_of, restricted
from gradscope.messages import say
from gradscope.preflight import Preflight
from gradscope.ranks.of_fit import RanksOfFit
from gradscope.ranks.words import Facts
from gradscope.recorder import Recorder
from gradscope.records import Coverage, Finding, Flight, Ledger, Metric, Origin, Overhead, Run, Setup, Severity
from gradscope.thresholds import Thresholds
from gradscope.wording import counted

if TYPE_CHECKING:
    from torch.optim import Optimizer


class Fit:
    """Holds the recorder, the watch of every step and the preflight of a fit until `release`, and what they found."""

    def __init__(self, thresholds: Thresholds) -> None:
        self.name = "fit"
        self.columns: tuple[Metric, ...] = ()
        self.history = History()
        self.ranks = RanksOfFit()
        self.recorder: Recorder | None = None
        self.watch: StepWatch | None = None
        self.preflight: Preflight | None = None
        self.unseen: dict[str, str] = {}
        """What does not work any more, and why."""
        self.seconds = 0.0
        """Host time spent in GradScope, but for what the recorder counts itself: see `own_seconds`."""
        self._seconds_before = 0.0
        """The same of the fit that this one goes on from, which no step of this one took."""
        self.logs: tuple[str, ...] = ()
        """Where the records are written to."""
        self._thresholds = thresholds
        self._setup = Setup()
        self._origin: Origin | None = None
        self._ledger = Ledger()
        self._flights: dict[str, Flight] = {}
        self._silence: Silence = {}
        self._window: Flight | None = None
        self._covered: Coverage | None = None
        self._measured: Mapping[str, int] = {}
        self._announced: set[str] = set()
        self._started = time.perf_counter()
        self._ended: float | None = None

    # While it lasts.

    def watch_with(
        self, recorder: Recorder, watch: StepWatch, preflight: Preflight, optimizers: Sequence[Optimizer]
    ) -> None:
        """Begin to watch."""
        self.recorder, self.watch, self.preflight, self.columns = recorder, watch, preflight, recorder.columns
        watch.attach(optimizers)

    def tell_watch(self, tell: Callable[[StepWatch], None]) -> None:
        """Tell the watch of every step; where it fails it is off, and the records go on."""
        if self.watch is None:
            return
        try:
            tell(self.watch)
        except Exception as error:
            self.watch.detach()
            self.watch = None
            self.unseen["every step"] = f"no longer looked at after {type(error).__name__}: {error}"
            say(f"every step is {self.unseen['every step']}. Everything else goes on.")

    def leave_steps_bare(self) -> None:
        """Look at nothing in every step from now on; steps are counted still."""
        if self.watch is not None:
            self.watch.rest()
            self.unseen["every step"] = "not looked at, for the budget does not pay for it"

    def tell_ranks(self) -> None:
        """Have ready what the other ranks are to know, if there are any."""
        if self.ranks.merge is None:
            return
        origin = self._own_origin()
        never_called = self.preflight.setup().never_called if self.preflight and self.preflight.is_done else None
        self.ranks.tell(Facts(origin, never_called))

    def announce_failures(self) -> None:
        """Say once of each slot that it failed."""
        failures = self.recorder.failures if self.recorder is not None else {}
        for slot in failures.keys() - self._announced:
            self._announced.add(slot)
            say(f"{slot} {failures[slot]}. Everything else goes on.")

    def has_recorded(self) -> None:
        """Take note that there is a record of this fit, not only of the one before a checkpoint."""
        self._covered = None

    def end(self) -> None:
        """Take note that it is over."""
        self._ended = time.perf_counter()

    def detach(self) -> None:
        """Take everything off the model and its optimizers."""
        if self.recorder is not None:
            self.recorder.release()
        if self.watch is not None:
            self.watch.detach()

    def release(self) -> None:
        """Let go of the model and its optimizers: the user may want their memory back."""
        if self.recorder is None:
            return
        coverage = self._coverage_of(self.recorder)
        self.unseen.update(coverage.unseen)
        self._measured = {**coverage.measured, **self.ranks.measured()}
        self.seconds += self.recorder.seconds
        self._origin = self._first_origin()
        self._silence = self.recorder.memory()
        self.tell_watch(self._keep_window)
        self._ledger = self._counted()
        self._setup = self._setup_now()
        self.recorder = self.watch = self.preflight = None

    def keep_flights(self, findings: Sequence[Finding]) -> None:
        """Keep the steps before each critical finding that is new."""
        new = [f.code for f in findings if f.severity is Severity.CRITICAL and f.code not in self._flights]

        def keep(watch: StepWatch) -> None:
            if (flight := watch.flight()) is not None:
                self._flights.update(dict.fromkeys(new, flight))

        if new:
            self.tell_watch(keep)

    @property
    def own_seconds(self) -> float:
        """Host time spent in GradScope, but for what it waited for other ranks."""
        in_hooks = self.recorder.seconds if self.recorder else 0.0
        return self.seconds + in_hooks - self.ranks.waited

    # What is known of it.

    def run(self, interval: int, unseen: Mapping[str, str], **rest: Any) -> Run:
        """Return the run so far, recorded every `interval` steps, with what else is `unseen` and more fields of it."""
        lasted = (self._ended or time.perf_counter()) - self._started
        return Run.from_records(
            self.name,
            self.history.records,
            self.columns,
            thresholds=self._thresholds,
            coverage=self._coverage(unseen),
            overhead=Overhead(self.history.added, self._seconds_before + self.own_seconds, lasted, interval),
            ledger=self._counted(),
            setup=self._setup_now(),
            origin=self._first_origin(),
            rank_outliers=self.ranks.facts.outliers,
            flights=self.flights,
            **rest,
        )

    @property
    def flights(self) -> dict[str, Flight]:
        """By the code of a critical finding, the steps before it appeared."""
        return dict(self._flights)

    def _first_origin(self) -> Origin | None:
        return self.ranks.facts.origin or self._own_origin()

    def _own_origin(self) -> Origin | None:
        seen = self.recorder.origin if self.recorder else None
        return earliest_origin(seen, self.watch.origin if self.watch else None, self._origin)

    def _counted(self) -> Ledger:
        """How many steps there were, those before a checkpoint included."""
        if self.watch is None:
            return self._ledger
        now = self.watch.ledger()
        return Ledger(self._ledger.steps + now.steps, self._ledger.skipped + now.skipped)

    def _setup_now(self) -> Setup:
        setup = self.preflight.setup() if self.preflight else self._setup
        never_called = self.ranks.facts.never_called
        return setup if never_called is None else replace(setup, never_called=never_called)

    def _coverage(self, unseen: Mapping[str, str]) -> Coverage:
        coverage = self._coverage_of(self.recorder) if self.recorder else Coverage({}, self._measured)
        measured = {**coverage.measured, **self.ranks.measured()}
        return Coverage({**self.ranks.unseen, **self.unseen, **coverage.unseen, **unseen}, measured)

    def _coverage_of(self, recorder: Recorder) -> Coverage:
        """What was measured: before the first record of a resumed fit what had been until the checkpoint."""
        return recorder.coverage() if self._covered is None else self._covered

    # How it goes on from another.

    def silence(self) -> Silence:
        """Return for how long units have been silent, as a checkpoint holds it."""
        if self.recorder is not None:
            self._silence = self.recorder.memory()
        return self._silence

    def window(self) -> Flight | None:
        """Return the last steps, every one of them."""
        self.tell_watch(self._keep_window)
        return self._window

    def _keep_window(self, watch: StepWatch) -> None:
        self._window = watch.flight()

    def take_up(self, memory: Memory, recorder: Recorder) -> None:
        """Go on from the fit that `memory` is of."""
        run = restricted(memory.run, recorder.table.may_have, self.columns)
        self.history.restore(records_of(run), run.overhead.records)
        self._ledger, self._origin, self._flights = run.ledger, run.origin, dict(run.flights)
        self._seconds_before = run.overhead.gradscope_seconds
        self._started -= run.overhead.fit_seconds
        self.logs, self._covered = memory.logs, run.coverage
        recorder.remember(memory.silence)
        known = {layer.name for layer in run.layers}
        self.ranks.remember([outlier for outlier in run.rank_outliers if outlier.layer in known])
        if self.preflight is not None:
            self.preflight.restore(run.setup)
        self.tell_watch(lambda watch: watch.restore(memory.window))
        if lost := len(memory.run.layers) - len(run.layers):
            say(f"goes on without {counted(lost, 'layer')} of the checkpoint that this model does not have or watch.")
