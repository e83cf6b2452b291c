"""What GradScope costs on a CUDA device: time, kernels, copies to the host, and whether it makes the host wait.

    python benchmarks/gpu.py                            # everything, on the nets of the other benchmarks
    python benchmarks/gpu.py --nets large-cnn large-transformer --tables costs --steps 10

The time is that of events on the device, over groups of steps of one kind, without waiting in between: host and device
overlap as in a user's run. Kernels and copies are counted by torch's profiler. Whether anything waits for the device is
asked of torch itself, which then raises an error; that includes Lightning, so a trainer without GradScope goes first.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from interleave import measure
from nets import CASES, LARGE, Case, fit
from overhead import compare_peers
from peers import PEERS
from tables import costs, device_name, show, table
from torch.profiler import ProfilerActivity, profile

from gradscope import GradScope

DEVICE = "cuda"

SPAN = 4
"""Steps in a group. A record reaches the host, and so the logger, one or more steps after the one it was taken in."""

SETTLED = 30
"""The first step that is looked at, an even one: every second step is recorded, and the model learned in 10 records."""


class DeviceClock:
    """Marks the device's own queue of work: marking does not wait for it."""

    def now(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch has no types for events
        event.record()
        return event

    def between(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3


class Work(NamedTuple):
    """What the device was asked to do in a step."""

    kernels: int
    copies_to_host: int

    @classmethod
    def of(cls, profiler: profile) -> "Work":
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json"
            profiler.export_chrome_trace(str(path))
            events = json.loads(path.read_text())["traceEvents"]
        copies = [e["name"] for e in events if e.get("cat") == "gpu_memcpy"]
        return cls(sum(e.get("cat") == "kernel" for e in events), sum("DtoH" in name for name in copies))


class StepProfiler(pl.Callback):
    """Profiles some steps, each from its start to the start of the next; to stand before all other callbacks."""

    def __init__(self, steps: Sequence[int]) -> None:
        self.work: dict[int, Work] = {}
        self._steps = steps
        self._profiler: profile | None = None

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        step = int(args[1])
        torch.cuda.synchronize()  # what earlier steps asked for is none of this step's
        if self._profiler is not None:
            self._profiler.stop()
            self.work[step - 1] = Work.of(self._profiler)
            self._profiler = None
        if step in self._steps:
            self._profiler = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])
            self._profiler.start()


class NoWaiting(pl.Callback):
    """Lets torch raise an error in each settled step that waits for the device; to stand before all other callbacks."""

    def __init__(self, recorded_too: bool) -> None:
        self._recorded_too = recorded_too

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        step = int(args[1])
        watched = step >= SETTLED and (self._recorded_too or step % 2 == 1)
        torch.cuda.set_sync_debug_mode("error" if watched else "default")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        torch.cuda.set_sync_debug_mode("default")  # the end of a fit may wait


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if not torch.cuda.is_available():
        show("No CUDA device: nothing was measured.")
        return
    show(device_name(DEVICE))
    cases = [{**CASES, **LARGE}[name] for name in options.nets]
    for name in options.tables:
        TABLES[name](cases, options.steps)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    nets, some = {**CASES, **LARGE}, partial(parser.add_argument, nargs="*")
    some("--nets", choices=nets, default=[*CASES], help="nets to measure (default: all but the large ones)")
    some("--tables", choices=TABLES, default=[*TABLES], help="what to measure (default: all)")
    parser.add_argument("--steps", type=int, default=50, help="groups of steps of each kind (default: %(default)s)")
    return parser.parse_args(arguments)


def show_costs(cases: Sequence[Case], steps: int) -> None:
    rows = [(case.name, measure(case, steps, None, DeviceClock(), SPAN, DEVICE)) for case in cases]
    show(costs("GradScope, by events on the device", rows))


def show_peers(cases: Sequence[Case], steps: int) -> None:
    for case in cases:
        compare_peers(case, steps, [*PEERS], clock=DeviceClock(), span=SPAN, device=DEVICE)


def show_budget(cases: Sequence[Case], steps: int) -> None:
    """What `GradScope(budget=0.02)` makes of it, by the host's clock, in 50 times as many steps."""
    filled = table("A budget of 2 % of the time", "net", "interval, steps", "share of the time")
    for case in cases:
        scope = GradScope(budget=0.02, summary=False, on_finding="ignore")
        fit(case, 50 * steps, [scope], DEVICE)
        spent = scope.run.overhead
        filled.add_row(case.name, f"{spent.every_n_steps:,}", f"{spent.gradscope_seconds / spent.fit_seconds:.1%}")
    show(filled)


def show_work(cases: Sequence[Case], steps: int) -> None:
    columns = [f"{what}, {kind}" for what in ("kernels", "copies") for kind in ("plain", "attached", "of a record")]
    filled = table("Kernels, and copies from device to host, in a step", "net", *columns)
    for case in cases:
        plain, attached, recorded = work_of_steps(case)
        record = Work(recorded.kernels - attached.kernels, recorded.copies_to_host - attached.copies_to_host)
        numbers = [str(w.kernels) for w in (plain, attached)] + [f"{record.kernels:+}"]
        numbers += [str(w.copies_to_host) for w in (plain, attached)] + [f"{record.copies_to_host:+}"]
        filled.add_row(case.name, *numbers)
    show(filled)


def work_of_steps(case: Case) -> tuple[Work, Work, Work]:
    """Return the work of a plain step, of one that is attached and not recorded, and of a recorded one."""
    # The first step that is profiled sets up the profiler, and is not looked at.
    plain = StepProfiler((SETTLED - 2, SETTLED))
    fit(case, SETTLED + 2, [plain], DEVICE)
    profiler, scope = StepProfiler((SETTLED - 2, SETTLED, SETTLED + 1)), every_second_step()
    fit(case, SETTLED + 3, [profiler, scope], DEVICE)
    if {SETTLED, SETTLED + 1}.intersection(scope.run.steps.tolist()) != {SETTLED}:
        raise RuntimeError(f"GradScope recorded other steps than planned; not seen: {scope.run.coverage.unseen}")
    return plain.work[SETTLED], profiler.work[SETTLED + 1], profiler.work[SETTLED]


def show_waiting(cases: Sequence[Case], steps: int) -> None:
    filled = table("Does the host wait for the device?", "net", "plain", "steps that are not recorded", "all steps")
    for case in cases:
        scopes = [None, every_second_step(), every_second_step()]
        recorded_too = (True, False, True)
        filled.add_row(case.name, *map(waiting, [case] * 3, scopes, recorded_too))
    show(filled)


def every_second_step() -> GradScope:
    return GradScope(every_n_steps=2, summary=False, on_finding="ignore")


def waiting(case: Case, scope: GradScope | None, recorded_too: bool) -> str:
    """Return "no", or torch's message about what waits for the device."""
    try:
        fit(case, 2 * SETTLED, [NoWaiting(recorded_too), *([scope] if scope else [])], DEVICE)
    except RuntimeError as error:
        return f"yes: {error}"
    finally:
        torch.cuda.set_sync_debug_mode("default")
    # GradScope raises nothing into a training: what failed inside it stands among what it did not see.
    failures = [why for why in scope.run.coverage.unseen.values() if "synchronizing" in why] if scope else []
    return f"yes: {failures[0]}" if failures else "no"


TABLES: dict[str, Callable[[Sequence[Case], int], None]] = {
    "costs": show_costs,
    "work": show_work,
    "waiting": show_waiting,
    "budget": show_budget,
    "peers": show_peers,
}
"""By the name that the command line knows them by: each is given nets, and how many steps to look at."""


if __name__ == "__main__":
    main()
