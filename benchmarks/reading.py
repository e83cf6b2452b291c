"""How fast logs are read: GradScope's reader beside TensorBoard's own, and tbparse where it is installed.

    python benchmarks/reading.py                                                  # less than a minute
    python benchmarks/reading.py --scalars 1000000 --megabytes 1000 --runs 200    # minutes: the others are slow
    python benchmarks/reading.py --scalars 1000000 --megabytes 1000 --runs 200 --peers    # GradScope alone

The readers take turns on the same files, which the system still has in memory: what is measured is the time of the
processor, which on an idle machine is what one waits. Shown is the median of the rounds, and how many times as long
the others take. Each reads as its users do: all values of all tags, but GradScope's leaves out what is not its own.
The memory is the peak of a process that reads the log once and does nothing else.
"""

import argparse
import importlib
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

HERE = Path(__file__).parent

Reader = Callable[[Path], object]


class Log(NamedTuple):
    """A directory of logs to read."""

    name: str
    path: Path
    megabytes: float


class Reading(NamedTuple):
    """What a reader needs for a log."""

    seconds: float
    mebibytes: float


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if options.read:
        print(peak_of(*options.read))
        return
    from tables import show

    readers = ["gradscope", *(name for name in options.peers if is_installed(name))]
    with tempfile.TemporaryDirectory() as folder:
        rows = [(log, measure(log, readers, options.rounds)) for log in write(Path(folder), options)]
    show(filled(readers, rows))
    for name in options.peers:
        if name not in readers:
            show(f'{name} is not installed: pip install -e ".[peers]"')


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    number = parser.add_argument
    number("--scalars", type=int, default=20_000, help="events of one scalar each (default: %(default)s)")
    number("--values", type=int, default=1000, help="records, and layers of each (default: %(default)s)")
    number("--megabytes", type=int, default=10, help="of a log with images and histograms (default: %(default)s)")
    number("--runs", type=int, default=10, help="runs of 100 records, 50 layers, 10 metrics (default: %(default)s)")
    number("--rounds", type=int, default=3, help="how often each log is read (default: %(default)s)")
    number("--peers", nargs="*", choices=READERS, default=["tensorboard", "tbparse"], help="others (default: all)")
    number("--read", nargs=2, metavar=("READER", "PATH"), help="read one log, and print the peak of memory in MiB")
    return parser.parse_args(arguments)


def write(folder: Path, options: argparse.Namespace) -> list[Log]:
    import logs

    n, size, runs = options.values, options.megabytes * 1_000_000, options.runs
    logs.write(folder / "stock" / "tfevents.1", logs.scalars(options.scalars))
    logs.write(folder / "ours" / "tfevents.1", logs.records(n, layers=n, metrics=1))
    logs.write(folder / "mixed" / "tfevents.1", logs.mixed(size, layers=50, metrics=10))
    for i in range(runs):
        logs.write(folder / "runs" / f"version_{i}" / "tfevents.1", logs.records(100, layers=50, metrics=10))
    names = {
        "stock": f"{options.scalars:,} events of a scalar, none of GradScope's",
        "ours": f"{n:,} records of {n:,} values",
        "mixed": "records among images and histograms",
        "runs": f"{runs} runs of 100 records of 500 values",
    }
    return [Log(name, folder / key, _megabytes(folder / key)) for key, name in names.items()]


def measure(log: Log, readers: Sequence[str], rounds: int) -> Mapping[str, Reading]:
    seconds: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(rounds):
        for name in readers:
            start = time.process_time()
            READERS[name](log.path)
            seconds[name].append(time.process_time() - start)
    return {name: Reading(statistics.median(seconds[name]), _peak(name, log.path)) for name in readers}


def filled(readers: Sequence[str], rows: Sequence[tuple[Log, Mapping[str, Reading]]]) -> Table:
    from tables import table

    columns = ["s", "MB/s", "MiB", *(f"{name}, {unit}" for name in readers[1:] for unit in ("×", "MiB"))]
    filled = table("Reading logs", "log", "MB", *columns)
    for log, readings in rows:
        own, *others = readings.values()
        cells = [f"{own.seconds:.3f}", f"{log.megabytes / own.seconds:,.0f}", f"{own.mebibytes:.0f}"]
        for other in others:
            cells += [f"{other.seconds / own.seconds:,.0f}", f"{other.mebibytes:,.0f}"]
        filled.add_row(log.name, f"{log.megabytes:,.1f}", *cells)
    filled.caption = (
        f"s, MB/s and MiB: GradScope's; ×: times as long. Load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores"
    )
    return filled


def is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def peak_of(reader: str, path: str) -> float:
    """Read a log, and return the peak of this process's memory in MiB."""
    READERS[reader](Path(path))
    status = Path("/proc/self/status")  # getrusage would tell the peak of the process that started this one
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), float("nan"))


def _peak(reader: str, path: Path) -> float:
    command = [sys.executable, str(HERE / "reading.py"), "--read", reader, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return float(done.stdout) if done.returncode == 0 else float("nan")


def _megabytes(path: Path) -> float:
    return sum(file.stat().st_size for file in path.rglob("*tfevents*")) / 1e6


def _gradscope(path: Path) -> object:
    from gradscope.events.reading import LogReader

    return LogReader(path).read(live=False)


def _event_accumulator(path: Path) -> object:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    everything = {"scalars": 0, "images": 0, "histograms": 0, "tensors": 0}
    directories = sorted({file.parent for file in path.rglob("*tfevents*")})
    return [EventAccumulator(str(directory), size_guidance=everything).Reload() for directory in directories]


def _tbparse(path: Path) -> object:
    reader: Any = importlib.import_module("tbparse").SummaryReader
    return reader(str(path)).tensors


READERS: dict[str, Reader] = {"gradscope": _gradscope, "tensorboard": _event_accumulator, "tbparse": _tbparse}
"""By the name of the package."""

if __name__ == "__main__":
    main()
