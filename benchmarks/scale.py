"""What it costs that ranks sum a record: bytes and time by the number of layers and of ranks, on gloo.

    python benchmarks/scale.py                    # some minutes
    python benchmarks/scale.py --ranks 2 --layers 10 100

Each layer is a ReLU of 64 units. All ranks run on this machine: where they are more than its cores, their times say
more about the machine than about the sum.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from interleave import Spread
from rich.table import Table
from tables import milliseconds, show, table
from torch import nn
from torch.multiprocessing.spawn import spawn

from gradscope import Thresholds
from gradscope.probes.layout import words
from gradscope.probes.probe import Measured
from gradscope.ranks.group import Group
from gradscope.ranks.merging import RankMerge, Sent
from gradscope.recorder import Recorder

UNITS = 64
LATENCY, BANDWIDTH = 20e-6, 1e9
"""Of a network that is good and no more: seconds a hop, bytes a second (10 Gbit/s)."""


class Cost(NamedTuple):
    """Of a record: bytes that a rank sends, seconds of the sum alone, and of all that merging adds."""

    size: int
    sum: Spread
    merging: Spread


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--layers", type=int, nargs="+", default=[10, 100, 1_000, 10_000])
    parser.add_argument("--records", type=int, default=40)
    options = parser.parse_args(arguments)
    for ranks in options.ranks:
        show(by_layers(ranks, options.layers, options.records))
    show(expected(1_000, options.layers))


def by_layers(ranks: int, numbers: Sequence[int], records: int) -> Table:
    filled = table(f"{ranks} ranks", "layers", "kB a record", "for each layer", "the sum, ms", "all of merging, ms")
    costs = [measured(ranks, layers, records) for layers in numbers]
    for layers, cost in zip(numbers, costs, strict=True):
        each = f"{cost.size / layers:.0f} B"
        filled.add_row(
            f"{layers:,}", f"{cost.size / 1e3:,.1f}", each, milliseconds(cost.sum), milliseconds(cost.merging)
        )
    if len(costs) > 1:
        per_byte, at_zero = statistics.linear_regression([c.size for c in costs], [c.sum.median for c in costs])
        per_layer, base = statistics.linear_regression(numbers, [c.merging.median for c in costs])
        filled.caption = (
            f"least squares: the sum takes {at_zero * 1e3:.2f} ms + {per_byte * 1e9:.2f} ms a MB, "
            f"merging {base * 1e3:.2f} ms + {per_layer * 1e6:.1f} µs a layer"
        )
    return filled


def expected(ranks: int, numbers: Sequence[int]) -> Table:
    """What a ring would take: each rank sends nearly twice what it has, in 2 (ranks - 1) hops."""
    filled = table(f"Reckoned for {ranks:,} ranks in a ring: {LATENCY * 1e6:.0f} µs a hop, {BANDWIDTH / 1e9:.0f} GB/s",
                   "layers", "kB a record", "of the hops, ms", "of the bytes, ms")  # fmt: skip
    for layers in numbers:
        size = 8 * (4 + 4 * layers + layers + words(layers * UNITS, ranks))
        hops, bytes_ = 2 * (ranks - 1) * LATENCY, 2 * size / BANDWIDTH
        filled.add_row(f"{layers:,}", f"{size / 1e3:,.1f}", f"{hops * 1e3:.1f}", f"{bytes_ * 1e3:.2f}")
    return filled


def measured(ranks: int, layers: int, records: int) -> Cost:
    with tempfile.TemporaryDirectory() as folder:
        spawn(_rank, (ranks, layers, records, folder), nprocs=ranks)  # type: ignore[no-untyped-call]  # torch has no types
        cost: Cost = torch.load(Path(folder) / "cost.pt", weights_only=False)
    return cost


def _rank(rank: int, ranks: int, layers: int, records: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    group = Group.joined()
    assert group is not None
    net = nn.Sequential(*(nn.ReLU() for _ in range(layers)))
    merge = _Timed(group)
    recorder = Recorder(net, Thresholds(), lambda name: True, merge=merge)
    batch = torch.randn(8, UNITS)
    for step in range(records):
        recorder.begin([])
        net(batch)
        recorder.end_batch(batch.sum())
        recorder.end(step)
        recorder.poll(wait=True)
    if rank == 0:
        settled = slice(records // 4, None)
        cost = Cost(merge.bytes, Spread.of(merge.sums[settled]), Spread.of(merge.all_of_it[settled]))
        torch.save(cost, Path(folder) / "cost.pt")
    merge.leave()
    dist.destroy_process_group()


class _Timed(RankMerge):
    """One that takes the time of the sum, and of all that is done beside it, on this side and behind it."""

    def __init__(self, group: Group) -> None:
        super().__init__(group)
        self.bytes = 0
        self.sums: list[float] = []
        self.all_of_it: list[float] = []
        original = group.sum

        def timed(numbers: torch.Tensor) -> torch.Tensor:
            dist.barrier()  # of the fit's own group, so that it is the sum that is timed, not how late another rank is
            start = time.perf_counter()
            total = original(numbers)
            self.sums.append(time.perf_counter() - start)
            self.bytes = numbers.numel() * numbers.element_size()
            return total

        group.sum = timed  # type: ignore[method-assign]  # of this group alone

    def send(self, *args: Any, **kwargs: Any) -> Sent | None:
        start = time.perf_counter()
        sent = super().send(*args, **kwargs)
        self.all_of_it.append(time.perf_counter() - start)
        return sent

    def resolve(self, *args: Any, **kwargs: Any) -> dict[str, Measured]:
        start = time.perf_counter()
        measured = super().resolve(*args, **kwargs)
        self.all_of_it[-1] += time.perf_counter() - start
        return measured


if __name__ == "__main__":
    main()
