"""Which steps are recorded: every so many, or as many as a budget allows; more of them while something is wrong."""

import math
import statistics
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

from gradscope.lightning.alarm import Alarm

FIRST_STEPS = 10
"""Steps at the start that are all recorded: the initialisation shows there and nowhere else."""

DEFAULT_INTERVAL = 10
"""Steps between records where neither an interval nor a budget is given."""

LONGEST_INTERVAL = 10_000
"""Steps between records at most: where even that costs more than the budget, the budget cannot be held."""

HEADROOM = 0.8
"""Share of a budget that is planned for: what is planned by medians must hold for sums."""

RECENT = 50
"""Steps by whose medians a budget is planned, in steps of each kind."""

ENOUGH_STEPS = 10
"""By so many it is decided to look at nothing in those between records: for good, so that it must not be by mistake."""


class Plan(NamedTuple):
    """The steps between records, and whether nothing is looked at in the others."""

    interval: int
    bare: bool


class Cadence:
    """Decides which steps are due, and when records are judged.

    With a budget the interval is chosen after the first steps, which are all recorded, and reviewed ever more rarely:
    at steps 12, 24, 48, … What the first steps cost beyond the budget is paid back: until the share spent is under the
    budget, half of it is planned for. Where what is looked at in every step is more than the budget pays for, steps are
    left `bare` from then on, and the next review finds out what remains for records.

    Of several ranks each must come to the same decision, so that they go by the number of the step alone: an alarm,
    which is heard on one rank and not on another, changes nothing unless the rank is `alone`.
    """

    def __init__(self, every_n_steps: int | None = None, budget: float | None = None) -> None:
        self.interval = every_n_steps or DEFAULT_INTERVAL
        self.budget = budget
        self.alarm = Alarm()
        self.alone = True
        self.bare = False
        """Whether steps that are not recorded are only counted, for the budget pays for no look at them."""
        self._review_at = FIRST_STEPS + 2
        self._diagnose_at = FIRST_STEPS
        self._diagnose_first = False
        self._first: int | None = None
        self._goes_on = False
        self._alarms_in_a_row = 0
        self._recorded: deque[float] = deque(maxlen=RECENT)
        self._unrecorded: deque[float] = deque(maxlen=RECENT)
        self._steps: deque[float] = deque(maxlen=RECENT)
        self._own_seconds, self._all_seconds = 0.0, 0.0

    def begin(self, step: int) -> None:
        """The fit begins at `step`; above zero it goes on from a checkpoint, with or without a state of ours.

        Without one its first step is recorded: what is wrong from there on is no fault of a later one.
        """
        self._first = None if self._goes_on else step
        if step > 0:
            self._diagnose_first = True  # what a log holds of verdicts may be of steps that are not to be
        if step > FIRST_STEPS and not self._steps:
            self._review_at = max(self._review_at, step + RECENT)  # now there is nothing to plan by

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs, as plain data."""
        timings = (self._recorded, self._unrecorded, self._steps)
        return {
            "budget": self.budget,
            "interval": self.interval,
            "bare": self.bare,
            "review_at": self._review_at,
            "diagnose_at": self._diagnose_at,
            "alarms_in_a_row": self._alarms_in_a_row,
            "timings": [list(seconds) for seconds in timings],
            "own_seconds": self._own_seconds,
            "all_seconds": self._all_seconds,
            "alarm": self.alarm.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where the cadence was whose `state` is given; what is absent in it stays as it is.

        What is asked for now counts: an interval that a budget chose is taken over only if there is a budget again.

        Raises:
            Exception: the state is damaged. Nothing is changed then.
        """
        alarm = Alarm()
        alarm.restore(state.get("alarm", {}))
        alarms_in_a_row, diagnose_at = int(state.get("alarms_in_a_row", 0)), int(state.get("diagnose_at", FIRST_STEPS))
        interval, review_at = int(state.get("interval", self.interval)), int(state.get("review_at", self._review_at))
        recorded, unrecorded, steps = (deque(map(float, s), RECENT) for s in state.get("timings", ([], [], [])))
        own_seconds, all_seconds = float(state.get("own_seconds", 0)), float(state.get("all_seconds", 0))
        budget, bare = float(state.get("budget") or 0), bool(state.get("bare", False))
        if not 1 <= interval <= LONGEST_INTERVAL and state.get("budget") is not None:
            raise ValueError(f"`interval` must be between 1 and {LONGEST_INTERVAL}, got {interval}")
        self._goes_on = True
        self.alarm, self._alarms_in_a_row, self._diagnose_at = alarm, alarms_in_a_row, diagnose_at
        if self.budget is not None and state.get("budget") is not None:
            self.interval, self._review_at, self.bare = interval, review_at, bare and self.budget <= budget
            self._recorded, self._unrecorded, self._steps = recorded, unrecorded, steps
            self._own_seconds, self._all_seconds = own_seconds, all_seconds

    def due(self, step: int) -> bool:
        """Say whether `step` is to be recorded."""
        return step < FIRST_STEPS or step % self.interval == 0 or step == self._first or self.alarmed()

    def alarmed(self) -> bool:
        """Say whether steps are to be recorded in full."""
        return self.alone and self.alarm.on

    def took(self, recorded: bool, seconds: float, own_seconds: float) -> None:
        """Take note that a step lasted `seconds`, of which `own_seconds` were spent here."""
        (self._recorded if recorded else self._unrecorded).append(own_seconds)
        self._steps.append(seconds - own_seconds)
        self._own_seconds += own_seconds
        self._all_seconds += seconds

    def wants_review(self, step: int) -> bool:
        """Say whether the interval is to be chosen anew before `step`."""
        if self.budget is None or step < self._review_at:
            return False
        self._review_at = 2 * step
        return True

    def wants_diagnosis(self, records: int, alarming: bool) -> bool:
        """Say whether so many records are to be judged now, the last of which was `alarming` or was not.

        Ever more rarely, so that all diagnoses together stay linear; and when an alarm begins, again a little later,
        since what is wrong may take some records to be told. The first record after a checkpoint is always judged.
        """
        self._alarms_in_a_row = self._alarms_in_a_row + 1 if alarming else 0
        if records < self._diagnose_at and self._alarms_in_a_row not in (1, 2, 4, 8):
            first, self._diagnose_first = self._diagnose_first, False
            return first
        self._diagnose_first = False
        self._diagnose_at = records * 5 // 4 + 1
        return True

    def plan(self) -> Plan:
        """Return what the budget pays for, by what steps took so far."""
        return Plan(self.affordable_interval(), self.bare or self._must_be_bare())

    def follow(self, plan: Plan) -> None:
        """Go by `plan` from now on."""
        if plan.bare and not self.bare:
            self._unrecorded.clear()  # what these take from now on is not known yet
        self.interval, self.bare = plan

    def _must_be_bare(self) -> bool:
        if self.budget is None or not self._steps or len(self._unrecorded) < ENOUGH_STEPS:
            return False
        return statistics.median(self._unrecorded) > HEADROOM * self.budget * statistics.median(self._steps)

    def affordable_interval(self) -> int:
        """Return the shortest interval that holds the budget, by what steps took so far."""
        if self.budget is None or not self._recorded or not self._steps:
            return self.interval
        planned = HEADROOM * self.budget * (1 if self._own_seconds <= self.budget * self._all_seconds else 0.5)
        idle = statistics.median(self._unrecorded) if self._unrecorded else 0.0
        record = statistics.median(self._recorded) - idle
        left = planned * statistics.median(self._steps) - idle
        if left <= 0:
            return LONGEST_INTERVAL
        return min(max(1, math.ceil(record / left)), LONGEST_INTERVAL)


class StepClock:
    """Tells a cadence that plans by a budget what each step lasted, and how much of it was spent here."""

    def __init__(self, cadence: Cadence) -> None:
        self._cadence = cadence
        self.recorded = False
        """Whether the step under way is recorded."""
        self._began: float | None = None
        self._own_seconds = 0.0

    def start(self, own_seconds: float) -> None:
        """A step begins, before which so many seconds in all were spent here."""
        self._began, self._own_seconds = time.perf_counter(), own_seconds

    def stop(self, own_seconds: float) -> None:
        """The step is over, and so many were spent by now: what a checkpoint takes after it is not the step's."""
        if self._began is not None and self._cadence.budget is not None:
            self._cadence.took(self.recorded, time.perf_counter() - self._began, own_seconds - self._own_seconds)
        self._began = None
