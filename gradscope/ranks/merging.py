"""One record of several ranks: agrees on what is sent, sums it, and says what the sums mean."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gradscope.model.layers import LayerTable
from gradscope.model.sharding import GRADIENTS
from gradscope.probes.layout import Layout
from gradscope.probes.probe import Measured, Merging, Probe
from gradscope.ranks.group import Group
from gradscope.ranks.outliers import Outliers
from gradscope.ranks.words import Facts, Inventory, Seen, Word, together
from gradscope.records import LOSS, NONFINITE_LOSS, Float64s, Floats, Layer, RankOutlier

HEAD = 4
"""Numbers before those of the probes: ranks with news, ranks where something failed, the sum of losses, how many."""

Shield = Callable[[str], AbstractContextManager[None]]


class Sent(NamedTuple):
    """What was sent of a record: this rank's numbers and their sums, float64[2, n] on the device; and what they are."""

    numbers: Tensor
    layout: Layout


class RankMerge:
    """Merges the records of a fit over its ranks: in each recorded step every rank calls `send` once.

    That costs one sum. Ranks tell each other what they have before the first record, and again after one in which any
    of them had news: an activation that ran for the first time, a failure, a NaN.
    """

    def __init__(self, group: Group) -> None:
        self.rank, self.size = group.rank, group.size
        self.off = ""
        """Why nothing comes from this rank any more: it still answers the others."""
        self.own = Facts()
        """What this rank knows."""
        self.all = Facts()
        """What all of them know."""
        self.comparable: dict[int, bool] = {}
        """By row, whether this rank sees the same units of an activation as the others: with tensor parallelism not."""
        self.ended = ""
        """Why nothing is merged any more."""
        self.is_lost = False
        """Whether another rank did not answer: none is asked any more, in no matter."""
        self.layout: Layout | None = None
        self._group: Group | None = group
        self._table: LayerTable | None = None
        self._probes: dict[str, Probe] = {}
        self._shield: Shield | None = None
        self._failures: dict[str, str] = {}
        self._known_failures: set[str] = set()
        self._device = group.device
        self._everyone: dict[str, Merging] = {}
        self._others: dict[str, Merging] = {}
        self._outliers = Outliers(group.rank)
        self._told: tuple[object, ...] = ()
        self._wanted = True
        self._at_once = group.device.type == "cpu"
        """Whether a sum is here at once; from an accelerator it comes with the copy of the record."""
        self._unread: Tensor | None = None
        """What was sent last, as long as nobody has read whether any rank had news in it."""
        self._owed_since: int | None = None

    def attach(
        self,
        table: LayerTable,
        probes: dict[str, Probe],
        failures: dict[str, str],
        shield: Shield,
    ) -> None:
        """Take part with `probes`; what fails in one is entered in `failures` by `shield`."""
        self._table, self._probes, self._failures, self._shield = table, probes, failures, shield
        for mergings in (self._everyone, self._others):
            mergings |= {name: merging for name, probe in probes.items() if (merging := probe.merging()) is not None}

    def send(self, losses: Sequence[Tensor], batches: int, parameters: tuple[int, ...] = ()) -> "Sent | None":
        """Sum what is shared of a record over the ranks: None when it is over.

        `losses` are those of the micro-batches on this rank, of which there were `batches`; `parameters` as in
        `Layout`. Where it fails, or another rank does not answer, it is over.
        """
        self._owed_since = None
        if self.ended:
            return None
        try:
            return self._sent(losses, batches, parameters)
        except Exception as error:
            self._lose(f"not asked any more after {type(error).__name__}: {error}")
            return None

    def owe(self, steps: int) -> None:
        """Note that the step is recorded that begins after so many steps of the optimizers."""
        self._owed_since = steps if self._owed_since is None else self._owed_since

    def answer(self, steps: int, why: str) -> None:
        """Send nothing where a record was owed when the optimizers had made so many steps, and did not come: `why`."""
        if self._owed_since is None or self._owed_since == steps:
            return
        self.off = self.off or why
        self.send([], 1)

    def resolve(
        self, numbers: Float64s, layout: Layout, step: int, layers: Sequence[Layer], own: Mapping[str, Measured]
    ) -> dict[str, Measured]:
        """Return by probe what was measured on all ranks, from the copy of what `send` gave in `step`.

        `layers` are the rows of that step, `own` is by probe what was measured on this rank. Where something failed on
        any rank, no probe measured anything.
        """
        mine, total = numbers
        if self._unread is not None:
            self._wanted, self._unread = self._wanted or bool(total[0] > 0), None
        loss = {"loss": _loss(total[2], total[3])}
        if total[1] > 0:
            return loss | {name: Measured({}) for name, merging in self._everyone.items() if merging.size(layout)}
        with np.errstate(all="ignore"):  # a sick net sends infinities, and what is left of them is NaN
            everyone = self._measured(self._everyone, layout, total[HEAD:], len(layers))
            others = self._measured(self._others, layout, (total - mine)[HEAD:], len(layers))
            self._outliers.see(step, layers, self._compared(own), self._compared(others))
        return loss | everyone

    def _compared(self, measured: Mapping[str, Measured]) -> dict[str, Floats]:
        apart = [row for row, alike in self.comparable.items() if not alike]
        metrics = {name: values for part in measured.values() for name, values in part.metrics.items()}
        if apart:
            others = {name: ~np.isin(np.arange(len(values)), apart) for name, values in metrics.items()}
            return {name: np.where(others[name], values, np.float32("nan")) for name, values in metrics.items()}
        return metrics

    def memory(self, probe: str) -> Mapping[int, Tensor] | None:
        """Return what is remembered on all ranks together in place of what `probe` remembers on this one, if it is."""
        return self._everyone[probe].memory() if probe in self._everyone and not self.ended else None

    def remember(self, probe: str, memory: Mapping[int, Tensor]) -> None:
        """Go on from the `memory` of an earlier fit."""
        for mergings in (self._everyone, self._others):
            if probe in mergings:
                mergings[probe].remember(memory)

    def remember_outliers(self, outliers: Sequence[RankOutlier]) -> None:
        """Go on from the `outliers` of an earlier fit."""
        self._outliers.remember(outliers)
        self.all = self.all._replace(outliers=tuple(outliers))

    def settle(self) -> None:
        """Tell each other the last news: on every rank at the end of a fit, after the last record."""
        if not self.ended:
            try:
                self._agree(Inventory(), at_last=True)
            except Exception as error:
                self._lose(f"did not answer at the end: {type(error).__name__}: {error}")

    def _lose(self, why: str) -> None:
        self.ended, self.is_lost = why, True
        self.leave()

    def leave(self) -> None:
        """Close the connections. Harmless where that is done."""
        group, self._group = self._group, None
        if group is not None:
            with suppress(Exception):  # the other side may have closed them
                group.leave()

    def _sent(self, losses: Sequence[Tensor], batches: int, parameters: tuple[int, ...]) -> "Sent | None":
        self._read()  # where no copy of the last record came, or this rank has failed before it did
        if self._wanted:
            self._agree(self._inventory(batches, parameters))
        if self.ended or self._group is None or self.layout is None:
            return None
        sent = self._summed(self._group, self.layout, losses, self._news(batches, parameters))
        self._unread = sent.numbers
        if self._at_once:
            self._read()
            if self._wanted:
                self._agree(self._inventory(batches, parameters))
        return sent

    def _read(self) -> None:
        """Take note whether any rank had news in what was sent last: on an accelerator this waits for it."""
        if self._unread is not None:
            self._wanted, self._unread = self._wanted or bool(self._unread[1, 0] > 0), None

    def _summed(self, group: Group, layout: Layout, losses: Sequence[Tensor], known: tuple[object, ...]) -> "Sent":
        parts = [self._shared(name, merging, layout) for name, merging in self._everyone.items()]
        failed = bool(self.off) or bool(self._failures.keys() - self._known_failures)
        head = torch.tensor([failed or known != self._told, failed, 0, len(losses)], dtype=torch.float64)
        head = head.to(self._device)
        head[2] = torch.stack([loss.detach().double().to(self._device) for loss in losses]).sum() if losses else 0.0
        own = torch.cat([head, *parts])
        return Sent(torch.stack((own, group.sum(own))), layout)

    def _shared(self, name: str, merging: Merging, layout: Layout) -> Tensor:
        if name not in self._failures and not self.off and self._shield is not None:
            with self._shield(name):
                return self._probes[name].share(layout).to(self._device)
        return torch.zeros(merging.size(layout), dtype=torch.float64, device=self._device)

    def _measured(
        self, mergings: Mapping[str, Merging], layout: Layout, sums: Float64s, layers: int
    ) -> dict[str, Measured]:
        measured = {}
        for name, merging in mergings.items():
            if size := merging.size(layout):  # what shares nothing is the same on all ranks
                measured[name] = merging.measured(layout, sums[:size], layers)
            sums = sums[size:]
        return measured

    # How they agree.

    def _inventory(self, batches: int, parameters: tuple[int, ...]) -> Inventory:
        if self._table is None or self.off:
            return Inventory()
        batches = max(batches, self.layout.batches if self.layout is not None else 1)
        silent, rows = set(self._table.never_ran()), self._table.rows
        units = {row: n for probe in self._probes.values() for row, n in probe.units.items()}
        activations = [
            Seen(rows[row], activation, units.get(row, 0), row not in silent)
            for row, activation in self._table.activations.items()
        ]
        return Inventory(tuple(activations), batches, parameters)

    def _news(self, batches: int, parameters: tuple[int, ...]) -> tuple[object, ...]:
        """What changes when there is something to tell: compared in every record, so that it has to be cheap."""
        progress = self._table.progress if self._table is not None else ()
        units = sum(len(probe.units) for probe in self._probes.values())
        batches = max(batches, self.layout.batches if self.layout is not None else 1)
        return progress, units, batches, parameters, self.own, self._outliers.told()

    def _word(self, inventory: Inventory, at_last: bool = False) -> Word:
        outliers = self._outliers.told(at_last)
        return Word(inventory.digest(), dict(self._failures), *self.own[:2], outliers, self.off)

    def _agree(self, inventory: Inventory, at_last: bool = False) -> None:
        """Hear what every rank has to say, and have the same inventory as all of them."""
        assert self._group is not None
        self._wanted = False
        words = self._group.gather(self._word(inventory, at_last))
        gone = [f"rank {rank} {word.off}" for rank, word in enumerate(words) if word.off]
        if gone:
            self.ended = f"not merged any more, because GradScope on {gone[0]}"
            return
        for rank, word in enumerate(words):
            for slot, why in word.failures.items():
                self._failures.setdefault(slot, why if rank == self.rank else f"{why} (on rank {rank})")
        self.all = together(words)
        if not at_last:
            self._lay_out(self._inventories(inventory, [word.inventory for word in words], self._group))
            self._told = self._news(inventory.batches, inventory.parameters)
        self._known_failures = set(self._failures)

    def _inventories(self, own: Inventory, digests: Sequence[str], group: Group) -> dict[int, Inventory]:
        """Return each inventory that any rank has, once, by the first rank that has it: as a rule all have the same."""
        firsts = {digest: rank for rank, digest in reversed(list(enumerate(digests)))}
        if len(firsts) == 1:
            return {0: own}
        return {rank: group.broadcast(own, rank) for rank in sorted(firsts.values())}

    def _lay_out(self, inventories: Mapping[int, Inventory]) -> None:
        """Make the layout of what any rank has: of the same things in the same order on each of them."""
        assert self._table is not None
        seen: dict[str, list[tuple[int, Seen]]] = {}
        for rank, inventory in sorted(inventories.items()):
            for activation in inventory.activations:
                seen.setdefault(activation.layer.name, []).append((rank, activation))
        alike = {name: entries for name, entries in seen.items() if self._are_alike(name, entries)}
        rows = [self._table.row_named(entries[0][1].layer, entries[0][1].activation) for entries in alike.values()]
        self._table.ran_elsewhere.update(
            row for row, entries in zip(rows, alike.values(), strict=True) if any(e.ran for _, e in entries)
        )
        first, *others = inventories.values()
        sharded_alike = all(other.parameters == first.parameters for other in others)
        if not sharded_alike:
            self._failures.setdefault(GRADIENTS, "not measured: their number is not the same on all ranks")
        self.layout = Layout(
            self.size,
            np.array(rows, dtype=np.int64),
            tuple(entries[0][1].activation.kind for entries in alike.values()),
            np.array([max(e.units for _, e in entries) for entries in alike.values()], dtype=np.int64),
            max(inventory.batches for inventory in inventories.values()),
            first.parameters if sharded_alike else (),
        )

    def _are_alike(self, name: str, entries: Sequence[tuple[int, Seen]]) -> bool:
        kinds = {(e.layer.type, e.activation): rank for rank, e in entries}
        units = {e.units: rank for rank, e in entries if e.units}
        if len(kinds) > 1:
            what = ", ".join(f"{kind} on rank {rank}" for (kind, _), rank in kinds.items())
        elif len(units) > 1:
            what = ", ".join(f"{number} units on rank {rank}" for number, rank in units.items())
        else:
            return True
        self._failures.setdefault(name, f"not measured: it is another thing on each rank: {what}")
        return False


def _loss(total: float, number: float) -> Measured:
    return Measured({}, {LOSS: total / number, NONFINITE_LOSS: float(not np.isfinite(total))} if number else {})
