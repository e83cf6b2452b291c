"""The processes of a fit, as torch.distributed knows them."""

from __future__ import annotations  # a build of torch may come without process groups

from datetime import timedelta
from typing import TypeVar

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

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    @classmethod
    def joined(cls) -> Group | None:
        """Return the group of all ranks: None for a process that trains alone.

        Raises:
            RuntimeError: not all of them came within `TIMEOUT`.
        """
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return None
        return cls(dist.new_group(timeout=TIMEOUT))  # type: ignore[arg-type]  # this rank is in it

    def sum(self, numbers: Tensor) -> Tensor:
        """Return the sum of `numbers` over all ranks, of the same shape: on an accelerator without waiting for it."""
        total = numbers.clone()
        dist.all_reduce(total, group=self._group)
        return total

    def gather(self, thing: T) -> list[T]:
        """Return what each rank gave, by rank. Waits for all of them."""
        things: list[T] = [thing] * self.size
        dist.all_gather_object(things, thing, group=self._group)
        return things

    def broadcast(self, thing: T, rank: int) -> T:
        """Return what `rank` gave."""
        things = [thing]
        dist.broadcast_object_list(things, rank, group=self._group)
        return things[0]

    def leave(self) -> None:
        """Close the connections."""
        dist.destroy_process_group(self._group)
