"""``gradscope summary``: what is wrong with the runs of a log, and what to change."""

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from gradscope.cli.command import (
    Commands,
    add_command,
    add_logdir,
    add_output_options,
    console,
    load_runs,
    rendered,
    write,
)

if TYPE_CHECKING:
    from gradscope.records import Finding, Run
    from gradscope.report import Reports

EXAMPLES = """\
  gradscope summary                             the runs in lightning_logs
  gradscope summary lightning_logs/version_3    a single run
  gradscope summary runs --json                 all runs under a directory, for a program
"""


def add(commands: Commands) -> None:
    """Add the command."""
    does = "tell what is wrong with the runs under a directory, and what to change"
    parser = add_command(commands, "summary", execute, does, EXAMPLES)
    add_logdir(parser)
    add_output_options(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Print the reports of all runs under a directory."""
    runs = load_runs(arguments.logdir)
    write(_json(runs) if arguments.json else rendered(console(arguments.width), _reports(runs)))
    return 0


def print_report(run: "Run", findings: "Sequence[Finding]") -> None:
    """Print what the callback found at the end of a fit, as the command would."""
    from gradscope.report import Report

    # A progress bar may still be drawn. rich's own console would write past rich's bar and be painted over, plain
    # text on stdout is put above it; tqdm's leaves the cursor at the end of its line.
    write("\n" + rendered(console(None), Report(run, findings)))


def _json(runs: "Mapping[str, Run]") -> str:
    import json

    from gradscope import rules
    from gradscope.summary import as_json

    summaries = [as_json(run, rules.diagnose(run)) for run in runs.values()]
    return json.dumps({"runs": summaries}, allow_nan=False, indent=2) + "\n"


def _reports(runs: "Mapping[str, Run]") -> "Reports":
    from gradscope import rules
    from gradscope.report import Report, Reports

    return Reports([Report(run, rules.diagnose(run)) for run in runs.values()])
