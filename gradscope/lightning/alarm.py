"""What a record looks like when a disaster begins: from then on every step is recorded for a while."""

import math
import statistics
from collections import deque
from collections.abc import Mapping
from typing import Any

from gradscope.records import LOSS, NONFINITE_LOSS, SKIPPED, TOTAL_NORM, Record

ALARM_NORM = 10
"""How many times its recent median a gradient norm has to be to raise the alarm."""

ALARM_LOSS = 3
"""The same of the loss."""

CALM = 3
"""Records in a row without alarm that end it."""

RECENT = 20
"""Records with whose median the next one is compared."""

LEAST = 5
"""How many of them there have to be."""

SPENT, SPENT_SHARE = 50, 0.01
"""Steps that the alarm may take at most: so many, and that share of all."""


class Alarm:
    """Is on after a record that looks like the beginning of a disaster: every step is recorded then, and in full.

    After a NaN or an infinity that no GradScaler skipped, a gradient norm of 10 times the median of the last 20
    records, or a loss of 3 times theirs. It allows itself 50 steps and one in a hundred, so that a run that is always
    like that is not slowed down.
    """

    def __init__(self) -> None:
        self.on = False
        self._norms: deque[float] = deque(maxlen=RECENT)
        self._losses: deque[float] = deque(maxlen=RECENT)
        self._calm = 0
        self._spent = 0

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs, as plain data."""
        recent = {"norms": list(self._norms), "losses": list(self._losses)}
        return {**recent, "on": self.on, "calm": self._calm, "spent": self._spent}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where the alarm was whose `state` is given; what is absent in it is as at the start."""
        self._norms, self._losses = (deque(map(float, state.get(name, [])), RECENT) for name in ("norms", "losses"))
        self.on = bool(state.get("on", False))
        self._calm, self._spent = (int(state.get(name, 0)) for name in ("calm", "spent"))

    def hear(self, record: Record) -> bool:
        """Take note of `record`. Says whether it is alarming in itself."""
        alarming = self._is_alarming(record)
        self._calm = 0 if alarming else self._calm + 1
        self._spent += self.on
        self.on = (alarming or (self.on and self._calm < CALM)) and self._spent < SPENT + SPENT_SHARE * record.step
        return alarming

    def _is_alarming(self, record: Record) -> bool:
        if record.globals.get(SKIPPED, 0) == 1:
            return False
        norm, loss = record.globals.get(TOTAL_NORM, 0.0), record.globals.get(LOSS, 0.0)
        high = _is_high(norm, self._norms, ALARM_NORM) or _is_high(loss, self._losses, ALARM_LOSS)
        return high or record.globals.get(NONFINITE_LOSS, 0) == 1


def _is_high(value: float, recent: deque[float], times: float) -> bool:
    """Say whether `value` is far above the median of `recent`, which it then joins; not finite is always too high."""
    if not math.isfinite(value):
        return True
    high = len(recent) >= LEAST and value > times * statistics.median(recent) > 0
    recent.append(value)
    return high
