"""The command line: ``gradscope summary``, ``report`` and ``explain``. Only this module prints."""

# Heavy imports stand inside the functions that need them: `gradscope --help` waits for none.
import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn

from gradscope import __version__
from gradscope.wording import one_line

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from gradscope.explanations import Explanation
    from gradscope.records import Finding, Run
    from gradscope.report import Reports

Command = Callable[[argparse.Namespace], int]

DEFAULT_LOGDIR = "lightning_logs"
DEFAULT_REPORT = "gradscope_report.html"
PIPED_WIDTH = 120
LEAST_WIDTH, GREATEST_WIDTH = 20, 1000

EXAMPLES = """\
examples:
  gradscope summary                             the runs in lightning_logs
  gradscope summary lightning_logs/version_3    a single run
  gradscope summary runs --json                 all runs under a directory, for a program
  gradscope report runs -o report.html          all of them as one file with pictures, to look at or to send
  gradscope explain dead_relu                   what a finding means, and what to do about it
"""


class BadInputError(Exception):
    """What the user gave cannot be used: the message, one line, is all that they see."""


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, as are all others of this program."""

    def error(self, message: str) -> NoReturn:
        """Raise what `main` reports."""
        raise BadInputError(f"{message}; see `{self.prog} --help`")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`, by default that of the process, and return its exit status.

    0 where all went well, whatever the diagnosis; 2 on bad input, with one line on stderr.

    Raises:
        SystemExit: after ``--help`` and ``--version``, with status 0.
    """
    parser = _parser()
    try:
        arguments = parser.parse_args(argv)
        command: Command | None = arguments.run
        if command is None:
            parser.print_help(sys.stderr)
            return 2
        return command(arguments)
    except BadInputError as error:
        print(f"gradscope: error: {one_line(str(error))}", file=sys.stderr)
        return 2


def summary(arguments: argparse.Namespace) -> int:
    """Print the reports of all runs under a directory."""
    runs = _load(arguments.logdir)
    if arguments.json:
        _write(_json(runs))
    else:
        _write(_rendered(_console(arguments.width), _reports(runs)))
    return 0


def report(arguments: argparse.Namespace) -> int:
    """Write the reports of all runs under a directory as one page of HTML."""
    from pathlib import Path

    from gradscope.dashboard.html_report import html_report

    path = Path(arguments.output)
    page = html_report(_load(arguments.logdir))
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise BadInputError(
            f"`--output` must be a file that can be written, got {str(path)!r}: {error.strerror}; choose another place"
        ) from error
    _write(f"{path}: {len(page.encode()) / 1e6:.1f} MB, opens in any browser, needs no network\n")
    return 0


def explain(arguments: argparse.Namespace) -> int:
    """Print what one finding is, or a list of all."""
    from gradscope.explanations import EXPLANATIONS

    code = arguments.code
    if code is not None and code not in EXPLANATIONS:
        raise BadInputError(_unknown_code(code, list(EXPLANATIONS)))
    chosen = list(EXPLANATIONS.values()) if code is None else [EXPLANATIONS[code]]
    if arguments.json:
        _write(_explanations_as_json(chosen))
        return 0
    from gradscope.report.explained import Explained, Index

    _write(_rendered(_console(arguments.width), Index(chosen) if code is None else Explained(chosen[0])))
    return 0


def print_report(run: "Run", findings: "Sequence[Finding]") -> None:
    """Print what the callback found at the end of a fit, as `summary` would."""
    from gradscope.report import Report

    # A progress bar may still be drawn. rich's own console would write past rich's bar and be painted over, plain
    # text on stdout is put above it; tqdm's leaves the cursor at the end of its line.
    _write("\n" + _rendered(_console(None), Report(run, findings)))


def _parser() -> Parser:
    parser = Parser(
        prog="gradscope",
        description="Gradient health of PyTorch Lightning runs, from the logs that the GradScope callback wrote.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"gradscope {__version__}")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
    _add_summary(commands)
    _add_report(commands)
    _add_explain(commands)
    return parser


def _add_summary(commands: "argparse._SubParsersAction[Parser]") -> None:
    text = "what is wrong with the runs under a directory, and what to change"
    parser = commands.add_parser("summary", help=text, description=f"Tell {text}.")
    parser.set_defaults(run=summary)
    _add_logdir(parser)
    _add_output_options(parser)


def _add_report(commands: "argparse._SubParsersAction[Parser]") -> None:
    text = "the runs under a directory as one file: the page of TensorBoard's GRADSCOPE tab, with its data inside"
    parser = commands.add_parser("report", help=text, description=f"Write {text}.")
    parser.set_defaults(run=report)
    _add_logdir(parser)
    parser.add_argument(
        "-o", "--output", default=DEFAULT_REPORT, metavar="FILE", help="the file to write (default: %(default)s)"
    )


def _add_logdir(parser: Parser) -> None:
    parser.add_argument(
        "logdir",
        nargs="?",
        default=DEFAULT_LOGDIR,
        metavar="LOGDIR",
        help="a directory with event files, at any depth, or one such file (default: %(default)s)",
    )


def _add_explain(commands: "argparse._SubParsersAction[Parser]") -> None:
    text = "what a finding is, how it is measured, and what to do about it"
    parser = commands.add_parser("explain", help=text, description=f"Tell {text}.")
    parser.set_defaults(run=explain)
    parser.add_argument("code", nargs="?", metavar="CODE", help="the finding, dead_relu say (default: a list of all)")
    _add_output_options(parser)


def _add_output_options(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.add_argument("--width", type=_width, metavar="N", help="columns to use (default: those of the terminal)")


def _width(text: str) -> int:
    if not text.isdecimal() or not LEAST_WIDTH <= int(text) <= GREATEST_WIDTH:
        raise argparse.ArgumentTypeError(
            f"expected a number of columns from {LEAST_WIDTH} to {GREATEST_WIDTH}, got {text!r}"
        )
    return int(text)


def _load(logdir: str) -> "Mapping[str, Run]":
    from dataclasses import replace
    from pathlib import Path

    from gradscope import events

    try:
        runs = events.load(logdir)
    except (OSError, ValueError) as error:
        raise BadInputError(str(error)) from error
    # The run at the directory itself is called "." there, which tells a reader nothing.
    own_name = Path(logdir).resolve().name
    return {name: replace(run, name=own_name) if run.name == "." else run for name, run in runs.items()}


def _json(runs: "Mapping[str, Run]") -> str:
    import json

    from gradscope import rules
    from gradscope.summary import as_json

    summaries = [as_json(run, rules.diagnose(run)) for run in runs.values()]
    return json.dumps({"runs": summaries}, allow_nan=False, indent=2) + "\n"


def _unknown_code(code: str, known: list[str]) -> str:
    import difflib

    nearest = difflib.get_close_matches(code.lower().replace("-", "_"), known, n=1, cutoff=0.4)
    advice = f"did you mean {nearest[0]}?" if nearest else "`gradscope explain` lists them"
    return f"`CODE` must be the code of a finding, got {code!r}; {advice}"


def _explanations_as_json(explanations: "Sequence[Explanation]") -> str:
    import json
    from dataclasses import asdict

    from gradscope.explanations import values_of
    from gradscope.thresholds import Thresholds

    objects = [{**asdict(e), "thresholds": values_of(e, Thresholds())} for e in explanations]
    return json.dumps({"explanations": objects}, ensure_ascii=False, indent=2) + "\n"


def _reports(runs: "Mapping[str, Run]") -> "Reports":
    from gradscope import rules
    from gradscope.report import Report, Reports

    return Reports([Report(run, rules.diagnose(run)) for run in runs.values()])


def _console(width: int | None) -> "Console":
    from rich.console import Console

    return Console(width=width or _default_width(os.environ), highlight=False, markup=False, emoji=False)


def _rendered(console: "Console", renderable: "RenderableType") -> str:
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def _default_width(environ: Mapping[str, str]) -> int | None:
    # rich finds the width in COLUMNS or from any standard stream that is a terminal (`| less`). Where nothing is
    # one, in the log of a CI job or in a file, its 80 would drop columns that the eventual reader has room for.
    if "COLUMNS" in environ or any(stream and stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
        return None
    return PIPED_WIDTH


def _write(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (`| head`) has what it wanted. Python flushes stdout once more at exit, which must not fail too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
