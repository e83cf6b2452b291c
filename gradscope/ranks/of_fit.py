"""The ranks of one fit: whom to ask, what they know together, and what is said where one does not answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from gradscope.messages import say
from gradscope.ranks.group import Group
from gradscope.ranks.merging import RankMerge
from gradscope.ranks.voices import Voices
from gradscope.ranks.words import Facts
from gradscope.records import RankOutlier

if TYPE_CHECKING:
    import torch
    from torch.optim import Optimizer
    from torch.utils.hooks import RemovableHandle


OTHERS = "other ranks"


class RanksOfFit:
    """A process that trains alone has neither `voices` to ask nor records to `merge`."""

    def __init__(self) -> None:
        self.merge: RankMerge | None = None
        """What merges records, where ranks are known to torch.distributed."""
        self.voices: Voices | None = None
        """Who can be asked in any matter."""
        self.facts = Facts()
        """What all ranks know together, beside the numbers."""
        self.unseen: dict[str, str] = {}
        """What is not known of them, and why."""
        self._may_end_the_fit = False
        self._group: Group | None = None
        self._steps = 0
        self._handles: list[RemovableHandle] = []

    @property
    def waited(self) -> float:
        """Seconds in which this rank waited for others."""
        return self._group.waited if self._group is not None else 0.0

    def join(self, strategy: Voices, device: torch.device, may_end_the_fit: bool) -> None:
        """Come together with the other ranks. Where that fails, each goes on by itself.

        `device` is what a module says that it is on, which is not true of all: FSDP leaves it on the CPU, where NCCL
        has nothing to say. A strategy knows better.
        """
        self._may_end_the_fit = may_end_the_fit
        try:
            group = Group.joined(getattr(strategy, "root_device", device))
        except Exception as error:
            self._go_on_without(f"could not be reached after {type(error).__name__}: {error}")
            return
        if group is None:
            self.voices = strategy
            self._go_on_without("are not known to torch.distributed")
        else:
            self.merge, self.voices, self._group = RankMerge(group), group, group

    def measured(self) -> dict[str, int]:
        """Return how many ranks there are in a record, as `Coverage.measured` has it: nothing of one alone."""
        return {"ranks": self.merge.size} if self.merge is not None and not self.merge.ended else {}

    def tell(self, own: Facts) -> None:
        """Have ready what the other ranks are to know with the next record."""
        if self.merge is not None:
            origin = own.origin
            if origin is not None and origin.rank is None:  # one from a checkpoint was born on the rank that it names
                origin = replace(origin, rank=self.merge.rank)
            self.merge.own = own._replace(origin=origin)

    def remember(self, outliers: Sequence[RankOutlier]) -> None:
        """Go on from the `outliers` of an earlier fit, of as many ranks or of another number."""
        self.facts = self.facts._replace(outliers=tuple(outliers))
        if self.merge is not None:
            self.merge.remember_outliers(outliers)

    def hear(self) -> None:
        """Take in what all ranks knew at the last record."""
        if self.merge is None:
            return
        self.facts = self.merge.all
        if self.merge.ended and OTHERS not in self.unseen:
            self.voices = None if self.merge.is_lost else self.voices
            self._go_on_without(self.merge.ended)

    def count(self, optimizers: Sequence[Optimizer]) -> None:
        """Count the steps of `optimizers`, until `part`: those that a user steps past Lightning it does not count."""
        if self.merge is not None:
            known = [optimizer for optimizer in optimizers if hasattr(optimizer, "register_step_post_hook")]
            self._handles = [optimizer.register_step_post_hook(self._after_optimizer_step) for optimizer in known]

    def _after_optimizer_step(self, *_: object) -> None:
        self._steps += 1

    def owe(self, steps: int) -> None:
        """Note that the step is recorded that begins after so many steps of the optimizers as Lightning counts them."""
        if self.merge is not None:
            self.merge.owe(steps + self._steps)

    def answer(self, steps: int, why: str) -> None:
        """Send nothing where the others wait for a record that did not come: `why`."""
        if self.merge is not None:
            self.merge.answer(steps + self._steps, why)

    def settle(self) -> None:
        """Hear the last news of all ranks, at the end of a fit."""
        if self.merge is not None:
            self.merge.settle()
            self.hear()

    def part(self) -> None:
        """Close the connections. Harmless where there are none."""
        if self.merge is not None:
            self.merge.leave()
        self.merge = self.voices = None
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _go_on_without(self, why: str) -> None:
        self.unseen[OTHERS] = f"{why}: activations are those of rank zero"
        say(f"{OTHERS} {self.unseen[OTHERS]}. Everything else goes on.")
        if self.voices is None and self._may_end_the_fit:
            self.unseen["on_finding"] = "ends no fit of several ranks, as these cannot agree on it"
