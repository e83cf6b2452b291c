"""What is asked of ranks that have to agree: Lightning's strategies can answer, and so can a group of our own."""

from typing import Protocol, TypeVar

T = TypeVar("T")


class Voices(Protocol):
    """Several ranks that can be asked. Each method has to be called on every one of them, in the same order."""

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:  # noqa: A002, as strategies call it
        """Return on every rank whether `decision` is true on all, or on any, of them."""

    def broadcast(self, obj: T, src: int = 0) -> T:
        """Return on every rank what rank `src` gave."""
