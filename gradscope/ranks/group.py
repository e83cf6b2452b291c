"""The processes of a fit, as torch.distributed knows them."""

from __future__ import annotations  # a build of torch may come without process groups

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

TIMEOUT = timedelta(minutes=5)
"""How long ranks wait for each other at most, where the backend lets a wait end (gloo). They come to a record within
the same step, so that only a rank which does not come at all is waited for."""


class Group:
    """All ranks of a fit. Each method has to be called on every one of them, in the same order.

    It is a process group of its own, so that what is sent here can never be taken for what the strategy sends, nor the
    other way round: whatever goes wrong between the ranks, no gradient is touched.
    """

    def __init__(self, group: dist.ProcessGroup, device: torch.device | None = None) -> None:
        self._group, self.device = group, device or torch.device("cpu")
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.waited = 0.0
        """Seconds in which this rank waited for others: the next gradient would have been waited for as well."""

    @classmethod
    def joined(cls, device: torch.device | None = None) -> Group | None:
        """Return the group of all ranks, which talk from `device`: None for a process that trains alone.

        Raises:
            RuntimeError: not all of them came within `TIMEOUT`.
        """
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return None
        return cls(dist.new_group(timeout=TIMEOUT), device)  # type: ignore[arg-type]  # this rank is in it

    def sum(self, numbers: Tensor) -> Tensor:
        """Return the sum of `numbers` over all ranks, of the same shape: on an accelerator without waiting for it."""
        total = numbers.clone()
        with self._waiting():
            dist.all_reduce(total, group=self._group)
        return total

    def gather(self, thing: T) -> list[T]:
        """Return what each rank gave, by rank. Waits for all of them."""
        things: list[T] = [thing] * self.size
        with self._waiting():
            dist.all_gather_object(things, thing, group=self._group)
        return things

    def broadcast(self, obj: T, src: int = 0) -> T:
        """Return what rank `src` gave. Waits for it."""
        things = [obj]
        with self._waiting():
            dist.broadcast_object_list(things, src, group=self._group)
        return things[0]

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.waited += time.perf_counter() - start

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:  # noqa: A002, as strategies call it
        """Return whether `decision` is true on all ranks, or on any. Waits for all of them."""
        number = float(self.sum(torch.tensor([float(decision)], device=self.device)))
        return number == self.size if all else number > 0

    def leave(self) -> None:
        """Close the connections."""
        dist.destroy_process_group(self._group)
