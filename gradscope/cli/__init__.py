"""The command line, ``gradscope COMMAND``: a file for each, and what they share."""

import argparse
import sys
from collections.abc import Sequence

from gradscope.cli import check, compare, completion, explain, export, report, run, summary, watch
from gradscope.cli.command import BadInputError, Execute, Parser
from gradscope.cli.version import Version
from gradscope.terminal import ReaderGoneError
from gradscope.wording import one_line

COMMANDS = (run, summary, watch, compare, check, report, export, explain, completion)
"""In the order in which ``--help`` lists them; each has a function `add` that adds its parser."""

INTERRUPTED = 130
"""What a shell gives for a program that Ctrl-C ended."""

EXAMPLES = """\
examples:
  gradscope run train.py --lr 0.1               a training script as it is, watched by GradScope
  gradscope summary                             the newest run in lightning_logs
  gradscope summary lightning_logs/version_3    a single run
  gradscope summary runs --json                 all runs under a directory, for a program
  gradscope watch                               the same while it trains, redrawn as it grows
  gradscope compare runs --baseline version_0   runs side by side, and where each parts ways with a sound one
  gradscope check runs                          exit 1 if any of them is sick, for scripts and CI
  gradscope report runs -o report.html          all of them as one file with pictures, to look at or to send
  gradscope export runs --to csv -o runs.csv    all that was measured, for other programs
  gradscope explain dead_relu                   what a finding means, and what to do about it
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`, by default that of the process, and return its exit status.

    0 where all went well, whatever the diagnosis, but for ``check``, which gives 1 where it fails; 2 on bad input, with
    one line on stderr; 130 after Ctrl-C. ``run`` ends as its script does.

    Raises:
        SystemExit: after ``--help`` and ``--version``, with status 0.
        BaseException: whatever ends the script of ``run``.
    """
    parser = build_parser()
    execute: Execute | None = None
    try:
        arguments = parser.parse_args(argv)
        execute = arguments.execute
        if execute is None:
            parser.print_help(sys.stderr)
            return 2
        return execute(arguments)
    except ReaderGoneError:
        return 0
    except KeyboardInterrupt:
        if execute is run.execute:  # a script ends as it does by itself
            raise
        return INTERRUPTED
    except (BadInputError, OSError) as error:
        print(f"gradscope: error: {one_line(str(error))}", file=sys.stderr)
        return 2


def build_parser() -> Parser:
    """Return the parser of the whole command line."""
    parser = Parser(
        prog="gradscope",
        description="Gradient health of PyTorch Lightning runs, from the logs that the GradScope callback wrote.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=Version)
    parser.set_defaults(execute=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
    for command in COMMANDS:
        command.add(commands)
    return parser
