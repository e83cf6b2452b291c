"""``gradscope report``: the runs of a log as one page of HTML."""

import argparse

from gradscope.cli.command import Commands, add_command, add_logdir, load_runs, writing
from gradscope.terminal import write

DEFAULT_REPORT = "gradscope_report.html"

EXAMPLES = """\
  gradscope report                              the runs in lightning_logs, to gradscope_report.html
  gradscope report runs/version_3 -o sick.html  a single run, to send to somebody
"""


def add(commands: Commands) -> None:
    """Add the command."""
    does = "write the runs under a directory as one file: TensorBoard's GRADSCOPE tab with its data inside"
    parser = add_command(commands, "report", execute, does, EXAMPLES)
    add_logdir(parser)
    parser.add_argument(
        "-o", "--output", default=DEFAULT_REPORT, metavar="FILE", help="the file to write (default: %(default)s)"
    )


def execute(arguments: argparse.Namespace) -> int:
    """Write the reports of all runs under a directory as one page of HTML."""
    from pathlib import Path

    from gradscope.dashboard.html_report import html_report

    path = Path(arguments.output)
    page = html_report(load_runs(arguments.logdir))
    with writing("--output", str(path)):
        path.write_text(page, encoding="utf-8")
    write(f"{path}: {len(page.encode()) / 1e6:.1f} MB, opens in any browser, needs no network\n")
    return 0
