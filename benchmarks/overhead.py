"""What GradScope costs on a CPU, and what other tools cost beside it.

    python benchmarks/overhead.py                       # the nets and the peers, about five minutes
    python benchmarks/overhead.py --nets cnn --peers    # one net, no peers
    python benchmarks/overhead.py --nets --peers --scaling --records 100000

Steps of three kinds take turns in one fit: plain ones of a trainer without GradScope, attached ones that GradScope does
not record, and recorded ones, each compared with the plain steps beside it. Recorded steps write a TensorBoard log, as
a user's run does. Shown is the median, with the quartiles in brackets. The ratios to a plain step follow from the
medians: a cadence of n is n − 1 attached steps and a recorded one. A small cost needs many steps to stand out from the
noise of the machine: look at the quartiles. The C library is told to keep memory that is freed, in all kinds of steps
alike, since what it does else is the largest noise of all.
"""

import argparse
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import scaling
import torch
from interleave import RECORDED, Cost, Spread, keep_memory, measure
from nets import CASES, Case
from peers import PEERS, Peer, version
from tables import costs, device_name, milliseconds, show, table

NOT_INSTALLED = 'not installed: pip install -e ".[peers]"'


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    keep_memory()
    show(device_name("cpu"))
    if options.nets:
        rows = [(CASES[name].name, measure(CASES[name], options.steps)) for name in options.nets]
        show(costs("GradScope", rows))
    for name in options.peer_nets if options.peers else ():
        compare_peers(CASES[name], options.steps, options.peers)
    if options.scaling:
        show(scaling.by_layers(options.steps))
        show(scaling.by_batch(options.steps))
        show(scaling.by_length(options.records))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    some = partial(parser.add_argument, nargs="*")
    some("--nets", choices=CASES, default=[*CASES], help="nets to measure GradScope on (default: all)")
    some("--peers", choices=PEERS, default=[*PEERS], help="other tools to measure (default: all)")
    some("--peer-nets", choices=CASES, default=["mlp"], help="nets to measure those on (default: mlp)")
    parser.add_argument("--steps", type=int, default=15, help="steps of each kind (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch (default: %(default)s)")
    parser.add_argument("--scaling", action="store_true", help="also by layers, batch and run length: minutes more")
    parser.add_argument("--records", type=int, default=1000, help="length of that run (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.steps < 2:
        parser.error("--steps must be at least 2, for quartiles")
    return options


def compare_peers(case: Case, steps: int, names: Sequence[str], **how: Any) -> None:
    """Show what a recorded step of each tool takes; `how` are further arguments of `measure`."""
    filled = table(f"A recorded step: {case.name}", "tool", "beyond a plain step, ms", "of a plain step")
    troubles = {name: trouble(name, **how) for name in names}
    cost = measure_peers(case, steps, [name for name, why_not in troubles.items() if not why_not], **how)
    filled.add_row("GradScope", *_cells(cost.extra[RECORDED], cost))
    for name, why_not in troubles.items():
        cells = (why_not, "") if why_not else _cells(cost.extra[name], cost)
        filled.add_row(f"{name} {version(name) or ''}", *cells)
    show(filled)


def _cells(extra: Spread, cost: Cost) -> Iterator[str]:
    yield milliseconds(extra)
    yield f"{extra.median / cost.plain.median:+.0%}"


def measure_peers(case: Case, steps: int, names: Sequence[str], **how: Any) -> Cost:
    peers: dict[str, Peer] = {}
    try:
        for name in names:
            peers[name] = PEERS[name]()
        return measure(case, steps, peers, **how)
    finally:
        for peer in peers.values():
            peer.close()


def trouble(name: str, **how: Any) -> str:
    """Return why a peer cannot be measured, after a short fit with it; empty where it can."""
    if version(name) is None:
        return NOT_INSTALLED
    try:
        measure_peers(scaling.TINY, 2, [name], **how)
    except Exception as error:
        return f"fails: {type(error).__name__}: {error}"
    return ""


if __name__ == "__main__":
    main()
