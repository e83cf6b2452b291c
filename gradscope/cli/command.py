"""What all commands share: the parser, and the runs that they read."""

# Heavy imports stand inside the functions that need them: `gradscope --help` waits for none.
import argparse
import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, NoReturn, TypeAlias

if TYPE_CHECKING:
    from gradscope.records import Run

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"
Execute = Callable[[argparse.Namespace], int]

DEFAULT_LOGDIR = "lightning_logs"
DIRECTORY = {"bash": "_shtab_compgen_dirs", "zsh": "_files -/", "tcsh": "d"}
LEAST_WIDTH, GREATEST_WIDTH = 20, 1000


class BadInputError(Exception):
    """What the user gave cannot be used: the message, one line, is all that they see."""


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


@contextlib.contextmanager
def writing(option: str, name: str) -> Iterator[None]:
    """Write the file `name`, which `option` gave.

    Raises:
        BadInputError: it cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise BadInputError(
            f"`{option}` must be a file that can be written, got {name!r}: {error.strerror}; choose another place"
        ) from error


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
