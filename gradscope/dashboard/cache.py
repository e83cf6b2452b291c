"""The runs that were read whole, with what the rules say of them."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

from gradscope.records import Finding, Run
from gradscope.rules import diagnose

LIMIT = 400_000_000
"""Bytes of metrics that are kept: about three runs of 2,400 layers, 1,000 records and 13 metrics."""


class Judged:
    """A run, and its findings once they are asked for."""

    def __init__(self, run: Run) -> None:
        self.run = run

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong with it, in the order in which it is told."""
        return diagnose(self.run)

    @property
    def size(self) -> int:
        """Bytes of its metrics."""
        return sum(values.nbytes for values in self.run.metrics.values())


class Key(NamedTuple):
    """Which run of which experiment."""

    experiment: str
    run: str


class RunCache:
    """Keeps the runs asked for last, one version of each, at most `limit` bytes of metrics or a single run.

    Safe to share between threads: a run that several ask for at once is loaded once.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._runs: OrderedDict[Key, tuple[str, Judged]] = OrderedDict()
        self._access, self._loading = threading.Lock(), threading.Lock()

    def get(self, key: Key, version: str) -> Judged | None:
        """Return the run if this very version of it is there."""
        with self._access:
            kept, judged = self._runs.get(key, ("", None))
            if judged is None or kept != version:
                return None
            self._runs.move_to_end(key)
            return judged

    def get_or_load(self, key: Key, version: str, load: Callable[[], Run]) -> Judged:
        """Return the run, from `load` if this version of it is not there. What `load` raises goes to the caller."""
        judged = self.get(key, version)
        if judged is not None:
            return judged
        with self._loading:
            judged = self.get(key, version)  # while this one waited, another may have loaded it
            if judged is None:
                judged = Judged(load())
                self._put(key, version, judged)
            return judged

    def _put(self, key: Key, version: str, judged: Judged) -> None:
        with self._access:
            self._runs[key] = (version, judged)
            self._runs.move_to_end(key)
            while len(self._runs) > 1 and sum(other.size for _, other in self._runs.values()) > self._limit:
                self._runs.popitem(last=False)
