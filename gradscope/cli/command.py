"""What all commands share: the parser, the runs that they read, and the one way to the terminal."""

# Heavy imports stand inside the functions that need them: `gradscope --help` waits for none.
import argparse
import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NoReturn, TypeAlias

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from gradscope.records import Run

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"
Execute = Callable[[argparse.Namespace], int]

DEFAULT_LOGDIR = "lightning_logs"
DIRECTORY = {"bash": "_shtab_compgen_dirs", "zsh": "_files -/", "tcsh": "d"}
PIPED_WIDTH = 120
LEAST_WIDTH, GREATEST_WIDTH = 20, 1000


class BadInputError(Exception):
    """What the user gave cannot be used: the message, one line, is all that they see."""


class ReaderGoneError(Exception):
    """Nobody reads stdout any more (`| head` has what it wanted): there is nothing left to do."""


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, as are all others of this program."""

    def error(self, message: str) -> NoReturn:
        """Raise what `main` reports."""
        raise BadInputError(f"{message}; see `{self.prog} --help`")


def add_command(commands: Commands, name: str, execute: Execute, does: str, examples: str) -> Parser:
    """Return the parser of the command `name`: `does` says what it does, `examples` close its help."""
    parser = commands.add_parser(
        name,
        help=does,
        description=f"{does[0].upper()}{does[1:]}.",
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(execute=execute)
    return parser


def add_logdir(parser: Parser, default: str | None = DEFAULT_LOGDIR, default_means: str = "%(default)s") -> None:
    """Add the argument LOGDIR, which a shell completes with the names of directories."""
    completing_directories(
        parser.add_argument(
            "logdir",
            nargs="?",
            default=default,
            metavar="LOGDIR",
            help=f"a directory with event files, at any depth, or one such file (default: {default_means})",
        )
    )


def completing_directories(argument: argparse.Action) -> None:
    """Have a shell complete `argument` with the names of directories."""
    argument.complete = DIRECTORY  # type: ignore[attr-defined]  # what `gradscope completion` looks for


def add_output_options(parser: Parser) -> None:
    """Add ``--json`` and ``--width``."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    add_width(parser)


def add_width(parser: Parser) -> None:
    """Add ``--width``."""
    parser.add_argument("--width", type=_width, metavar="N", help="columns to use (default: those of the terminal)")


def _width(text: str) -> int:
    if not text.isdecimal() or not LEAST_WIDTH <= int(text) <= GREATEST_WIDTH:
        raise argparse.ArgumentTypeError(
            f"expected a number of columns from {LEAST_WIDTH} to {GREATEST_WIDTH}, got {text!r}"
        )
    return int(text)


def load_runs(logdir: str) -> "Mapping[str, Run]":
    """Return the runs at or under `logdir`; the one at the directory itself is called after it.

    Raises:
        BadInputError: there is none, or it cannot be read.
    """
    from dataclasses import replace
    from pathlib import Path

    from gradscope.events import reading

    try:
        runs = reading.load(logdir)
    except (OSError, ValueError) as error:
        raise BadInputError(str(error)) from error
    # The run at the directory itself is called "." there, which tells a reader nothing.
    own_name = logdir.rstrip("/").rpartition("/")[2] if "://" in logdir else Path(logdir).resolve().name
    return {name: replace(run, name=own_name) if run.name == "." else run for name, run in runs.items()}


def console(width: int | None) -> "Console":
    """Return a console of `width` columns, or of what the terminal has."""
    from rich.console import Console

    return Console(width=width or _default_width(os.environ), highlight=False, markup=False, emoji=False)


def rendered(page: "Console", renderable: "RenderableType") -> str:
    """Return `renderable` as `page` would print it."""
    try:
        with page.capture() as capture:
            page.print(renderable)
    except OSError as error:  # rich flushes stdout, captured or not
        raise _unwritable(error) from error
    return "".join(f"{line.rstrip(' ')}\n" for line in capture.get().split("\n")[:-1])


def encodable(text: str) -> str:
    """Return `text` with an escape for each character that stdout's encoding lacks."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def write(text: str) -> None:
    """Write `text` to stdout, with escapes for what its encoding lacks; without a stdout it goes nowhere.

    Raises:
        ReaderGoneError: nobody reads it any more.
        BadInputError: it cannot be written.
    """
    if sys.stdout is None:
        return
    try:
        sys.stdout.write(encodable(text))
        sys.stdout.flush()
    except BrokenPipeError as error:
        _forget_stdout()
        raise ReaderGoneError from error
    except OSError as error:
        raise _unwritable(error) from error


def _unwritable(error: OSError) -> BadInputError:
    _forget_stdout()
    return BadInputError(f"stdout must be a place that can be written to, got one with: {error.strerror}")


def _forget_stdout() -> None:
    # Python flushes stdout once more at exit, which must not fail too.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _default_width(environ: Mapping[str, str]) -> int | None:
    # rich finds the width in COLUMNS or from any standard stream that is a terminal (`| less`). Where nothing is
    # one, in the log of a CI job or in a file, its 80 would drop columns that the eventual reader has room for.
    if "COLUMNS" in environ or any(stream and stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
        return None
    return PIPED_WIDTH
