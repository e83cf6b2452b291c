"""Compares kinds of steps with plain ones within one fit, so that a machine that slows down slows down all of them.

The steps go *recorded, behind, plain, attached, plain* and round again. What a step costs is the difference from the
mean of the plain steps before and after it. The step behind a recorded one is a plain one too, but counts with it: the
logger's thread writes on into that step, and the caches have to be filled again.
"""

import ctypes
import math
import statistics
import sys
import time
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import pytorch_lightning as pl
from nets import Case, fit
from peers import Peer

from gradscope import GradScope

PLAIN, BEHIND, ATTACHED, RECORDED = "plain", "behind", "attached", "recorded"

SETTLING = 14
"""Steps before anything is measured: GradScope records the first 10, and learns the model in its first 10 records."""


class Spread(NamedTuple):
    """The median of measured seconds and the quartiles beside it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, seconds: list[float]) -> "Spread":
        low, _, high = statistics.quantiles(seconds, n=4)
        return cls(statistics.median(seconds), low, high)


class Cost(NamedTuple):
    """Seconds of a plain step, and what a step of each other kind takes beyond that."""

    plain: Spread
    extra: Mapping[str, Spread]

    def ratio(self, every: int) -> float:
        """Return the mean step with GradScope divided by the plain one, where one step in `every` is recorded."""
        attached, recorded = self.extra[ATTACHED].median, self.extra[RECORDED].median
        return 1 + (attached * (every - 1) + recorded) / every / self.plain.median


class Clock(Protocol):
    """Takes times, and tells the seconds between two of them once all work is done."""

    def now(self) -> Any: ...

    def between(self, start: Any, end: Any) -> float: ...


class HostClock:
    def now(self) -> float:
        return time.perf_counter()

    def between(self, start: float, end: float) -> float:
        return end - start


class Rotation(pl.Callback):
    """Gives each group of `span` steps its kind, by putting the callbacks into the trainer's list and taking them out.

    In a plain step Lightning knows of no other callback, so that it is that of a trainer without GradScope. One thing
    stays: hooks that GradScope keeps on the optimizer, of about a microsecond a step.

    GradScope decides by the number of the step which one to record: the first of each round.
    """

    def __init__(self, peers: Mapping[str, Peer], clock: Clock, span: int = 1) -> None:
        self.order = [RECORDED, BEHIND, PLAIN, ATTACHED, PLAIN]
        for name in peers:
            self.order += [name, BEHIND, PLAIN]
        self.span = span
        self.round = span * len(self.order)
        self.scope = GradScope(every_n_steps=self.round, summary=False, on_finding="ignore")
        self._guests: dict[str, list[pl.Callback]] = {
            PLAIN: [], BEHIND: [], ATTACHED: [self.scope], RECORDED: [self.scope], **{n: [p] for n, p in peers.items()},
        }  # fmt: skip
        self._peer: Peer | None = None
        self._clock = clock
        self._started: list[Any] = []
        self._ended: list[Any] = []
        # Settling takes whole rounds, and in the last of them the peers are present for their first time.
        self.settling_rounds = 1 + math.ceil(SETTLING / self.round)

    def kind(self, group: int) -> str:
        """Return the kind of a group; GradScope is in all groups that settle but the last round's."""
        if group < (self.settling_rounds - 1) * len(self.order):
            return ATTACHED
        return self.order[group % len(self.order)]

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        batch_idx = int(args[1])
        if batch_idx % self.span:
            return
        self._ended.append(self._clock.now())  # of the group before
        guests = self._guests[self.kind(batch_idx // self.span)]
        if self._peer is not None:
            self._peer.leave(trainer, pl_module)
        self._peer = next((guest for guest in guests if isinstance(guest, Peer)), None)
        if self._peer is not None:
            self._peer.enter(trainer, pl_module)
        _invite(trainer, [self, *guests])
        self._started.append(self._clock.now())

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._peer is not None:
            self._peer.leave(trainer, pl_module)
        _invite(trainer, [self, self.scope])

    def cost(self) -> Cost:
        """Compare the groups; after the fit."""
        seconds = [self._clock.between(a, b) for a, b in zip(self._started, self._ended[1:], strict=False)]
        extra: dict[str, list[float]] = {kind: [] for kind in self.order if kind not in (PLAIN, BEHIND)}
        plain = []
        recorded = set(self.scope.run.steps.tolist())
        for group in range(self.settling_rounds * len(self.order), len(seconds) - 2):
            kind = self.kind(group)
            if kind == PLAIN:
                plain.append(seconds[group] / self.span)
            elif kind != BEHIND and recorded.intersection(self._steps(group)) == self._planned(group):
                extra[kind].append(self._beyond_plain(seconds, group))
        return self._in_steps(plain, extra)

    def _beyond_plain(self, seconds: list[float], group: int) -> float:
        end = group + (2 if self.kind(group + 1) == BEHIND else 1)
        return sum(seconds[group:end]) - (end - group) * (seconds[group - 1] + seconds[end]) / 2

    def _steps(self, group: int) -> range:
        return range(group * self.span, (group + 1) * self.span)

    def _planned(self, group: int) -> set[int]:
        # GradScope may record out of turn, when something looks wrong: such a group is left out.
        return {group * self.span} if self.kind(group) == RECORDED else set()

    def _in_steps(self, plain: list[float], extra: Mapping[str, list[float]]) -> Cost:
        """Divide what a group costs among its steps: all of a recorded group but the first are only attached."""
        unseen = self.scope.run.coverage.unseen
        if unseen:
            raise RuntimeError(f"GradScope did not measure everything, so its cost would be too low: {unseen}")
        if min(map(len, extra.values())) < 2:
            raise RuntimeError("Too few steps were recorded as planned; give more of them")
        attached = statistics.median(extra[ATTACHED]) / self.span
        spreads = {kind: Spread.of([s / self.span for s in seconds]) for kind, seconds in extra.items()}
        spreads[RECORDED] = Spread.of([s - attached * (self.span - 1) for s in extra[RECORDED]])
        return Cost(Spread.of(plain), spreads)


def _invite(trainer: pl.Trainer, callbacks: list[pl.Callback]) -> None:
    trainer.callbacks[:] = callbacks  # type: ignore[attr-defined]  # in place: Lightning is walking along this list


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # as glibc's malloc.h has them


def keep_memory() -> None:
    """Have glibc keep what is freed; of another C library nothing is known, and nothing asked.

    It gives large blocks back to the system and asks for them again, or does not, as chance has it: a plain step of
    the CNN of the demo meets no page fault or 13,800 of them, which take 18 ms, four times what a record takes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, -1)
        mallopt(M_MMAP_MAX, 0)


def measure(
    case: Case, steps: int, peers: Mapping[str, Peer] | None = None, clock: Clock | None = None, span: int = 1,
    device: str = "cpu",
) -> Cost:  # fmt: skip
    """Measure so many steps of each kind."""
    rotation = Rotation(peers or {}, clock or HostClock(), span)
    rounds = rotation.settling_rounds + steps
    fit(case, rounds * rotation.round + 3 * rotation.span, [rotation, rotation.scope], device)
    return rotation.cost()
