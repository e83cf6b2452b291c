"""``gradscope watch``: the verdict on runs while they are written."""

import argparse
import signal
import time
from typing import TYPE_CHECKING, NamedTuple

from gradscope.cli.command import BadInputError, Commands, add_command, add_logdir
from gradscope.cli.keyboard import Keyboard, keyboard
from gradscope.terminal import console, write
from gradscope.wording import one_line

if TYPE_CHECKING:
    from rich.console import Console

    from gradscope.records import Finding, Run
    from gradscope.report.watched import Watched
    from gradscope.watching import Watch

INTERVAL = 2.0
SHORTEST_INTERVAL, LONGEST_INTERVAL = 0.2, 3600.0
PAUSE = 0.25
"""Seconds after which a window is redrawn that has another size."""

EXAMPLES = """\
  gradscope watch                               the runs in lightning_logs, the newest in full
  gradscope watch runs --bell                   with a bell for each new finding
  gradscope watch runs > findings.log           no terminal: a line for each new finding
"""


def add(commands: Commands) -> None:
    """Add the command."""
    does = "follow the runs under a directory while they are written; q quits"
    parser = add_command(commands, "watch", execute, does, EXAMPLES)
    add_logdir(parser)
    parser.add_argument("--metric", default="grad_norm", metavar="NAME", help="what is drawn (default: %(default)s)")
    parser.add_argument("--bell", action="store_true", help="ring the terminal's bell for each new finding")
    parser.add_argument(
        "--interval",
        type=_interval,
        default=INTERVAL,
        metavar="SECONDS",
        help="between two looks at the files (default: %(default)g)",
    )


def execute(arguments: argparse.Namespace) -> int:
    """Show the runs until the user quits; what is not there yet is waited for."""
    from gradscope.events.reading import LogReader
    from gradscope.watching import Watch

    try:
        _end_politely()
        watch = Watch(LogReader(arguments.logdir))
        screen = console(None)
        with keyboard() as keys:
            if screen.is_terminal:
                _on_screen(watch, screen, keys, arguments)
            else:
                _in_lines(watch, keys, arguments.interval)
    except KeyboardInterrupt:
        pass
    except (OSError, ValueError) as error:
        raise BadInputError(str(error)) from error
    return 0


def _end_politely() -> None:
    """Have a request to end leave the terminal as it was; one that is ignored, as under nohup, stays so."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # not every system knows both
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not SHORTEST_INTERVAL <= seconds <= LONGEST_INTERVAL:
        raise argparse.ArgumentTypeError(
            f"expected a number of seconds from {SHORTEST_INTERVAL:g} to {LONGEST_INTERVAL:g}, got {text!r}"
        )
    return seconds


def _on_screen(watch: "Watch", screen: "Console", keys: Keyboard, arguments: argparse.Namespace) -> None:
    """Draw in place until the user quits; the terminal is left as it was."""
    from rich.live import Live

    view, size, due = _View(arguments.logdir, arguments.metric, None), screen.size, 0.0
    with Live(_screen(watch, view), console=screen, screen=True, auto_refresh=False) as live:
        while True:
            before = view, size
            changed = False
            if time.monotonic() >= due:
                changed, found = watch.look()
                due = time.monotonic() + arguments.interval
                if found and arguments.bell:
                    screen.bell()
            pressed = keys.wait(0.0 if changed else min(PAUSE, max(0.0, due - time.monotonic())))
            if "q" in pressed or "Q" in pressed:
                return
            for key in pressed:
                view = _after(key, view, watch)
            size = screen.size
            if changed or (view, size) != before:
                live.update(_screen(watch, view), refresh=True)


def _in_lines(watch: "Watch", keys: Keyboard, interval: float) -> None:
    """Write a line for each new finding, those that are there at the start included."""
    while True:
        for run, finding in watch.look().findings:
            write(f"{_line(run, finding)}\n")
        keys.wait(interval)


def _line(run: "Run", finding: "Finding") -> str:
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    return one_line(
        f"{now} {run.name}: {finding.severity} {finding.code} since step {finding.first_step}: {finding.message}"
    )


class _View(NamedTuple):
    """What the user looks at; `run` is the name of one, None the newest."""

    logdir: str
    metric: str
    run: str | None


def _after(key: str, view: _View, watch: "Watch") -> _View:
    """Return what is looked at after a key was pressed."""
    names = [one.run.name for one in watch.judged]
    if not names:
        return view
    at = names.index(view.run) if view.run in names else 0
    if key in ("n", "\x1b[B"):
        return view._replace(run=names[(at + 1) % len(names)])
    if key in ("p", "\x1b[A"):
        return view._replace(run=names[(at - 1) % len(names)])
    if key == "m":
        metrics = [column.name for column in watch.judged[at].run.columns]
        following = metrics.index(view.metric) + 1 if view.metric in metrics else 0
        return view._replace(metric=metrics[following % len(metrics)]) if metrics else view
    return view


def _screen(watch: "Watch", view: _View) -> "Watched":
    from gradscope.report import Report
    from gradscope.report.watched import Watched

    reports = [Report(one.run, one.findings) for one in watch.judged]
    chosen = next((i for i, report in enumerate(reports) if report.run.name == view.run), 0)
    status = f"q quits   n, p another run   m another metric   {view.logdir}"
    waiting = f"No run with GradScope data in {view.logdir} yet: waiting for one."
    return Watched(reports, chosen, view.metric, status, waiting)
