"""What ranks tell each other beside the numbers of a record."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gradscope.activations import Activation
from gradscope.records import Layer, Origin, RankOutlier


class Seen(NamedTuple):
    """An activation as one rank knows it: `units` is 0 where they are not counted, or not known yet."""

    layer: Layer
    activation: Activation
    units: int
    ran: bool


class Inventory(NamedTuple):
    """What a rank has to send, which as a rule is the same on all."""

    activations: tuple[Seen, ...] = ()
    batches: int = 1
    parameters: tuple[int, ...] = ()

    def digest(self) -> str:
        """Return what tells one inventory from another."""
        return hashlib.sha256(repr(self).encode()).hexdigest()


class Word(NamedTuple):
    """What a rank has to say for itself, in few words: a thousand of them are told to each."""

    inventory: str
    """Its digest."""
    failures: Mapping[str, str]
    """What failed, and why."""
    origin: Origin | None
    never_called: tuple[str, ...] | None
    outliers: tuple[RankOutlier, ...]
    off: str
    """Why nothing comes from this rank any more."""


class Facts(NamedTuple):
    """What is known beside the numbers; `never_called` are layers with no part in the first forward: None before it."""

    origin: Origin | None = None
    never_called: tuple[str, ...] | None = None
    outliers: tuple[RankOutlier, ...] = ()


DIRECTIONS = ("batch", "forward", "weight", "backward", "")
"""Of a NaN that several ranks tell of at the same step, the one that was born first: gradients carry it to all."""


def together(words: Sequence[Word]) -> Facts:
    """Return what all ranks know that gave these words, by rank."""
    origins = [(w.origin.step, DIRECTIONS.index(w.origin.direction), rank) for rank, w in enumerate(words) if w.origin]
    first = min(origins, default=None)
    origin = words[first[2]].origin if first is not None else None
    silent = [set(w.never_called) for w in words if w.never_called is not None]
    kept = next((w.never_called for w in words if w.never_called is not None), None)
    never_called = None if kept is None else tuple(n for n in kept if all(n in names for names in silent))
    return Facts(origin, never_called, tuple(o for w in words for o in w.outliers))
