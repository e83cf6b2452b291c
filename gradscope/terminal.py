"""The one way to the terminal, of the command line and of the callback: nothing else in the package prints."""

# rich is imported where it is needed: a training without a summary waits for none.
import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from gradscope.records import Finding, Run

PIPED_WIDTH = 120


class ReaderGoneError(Exception):
    """Nobody reads stdout any more (`| head` has what it wanted): there is nothing left to do."""


def console(width: int | None) -> "Console":
    """Return a console of `width` columns, or of what the terminal has."""
    from rich.console import Console

    return Console(width=width or _default_width(os.environ), highlight=False, markup=False, emoji=False)


def rendered(page: "Console", renderable: "RenderableType") -> str:
    """Return `renderable` as `page` would print it.

    Raises:
        OSError: stdout cannot be written to.
    """
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
        OSError: it cannot be written.
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


def print_report(run: "Run", findings: "Sequence[Finding]") -> None:
    """Print what the callback found at the end of a fit, as ``gradscope summary`` would."""
    from gradscope.report import Report

    # Nobody may read it: that ends no training. A progress bar may still be drawn: rich's own console would write past
    # rich's bar and be painted over, plain text on stdout is put above it; tqdm's leaves the cursor at its line's end.
    with contextlib.suppress(ReaderGoneError, OSError):
        write("\n" + rendered(console(None), Report(run, findings)))


def _unwritable(error: OSError) -> OSError:
    _forget_stdout()
    return OSError(f"stdout must be a place that can be written to, got one with: {error.strerror}")


def _forget_stdout() -> None:
    # Python flushes stdout once more at exit, which must not fail too.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _default_width(environ: Mapping[str, str]) -> int | None:
    # rich finds the width in COLUMNS or from any standard stream that is a terminal (`| less`). Where nothing is
    # one, in the log of a CI job or in a file, its 80 would drop columns that the eventual reader has room for.
    if "COLUMNS" in environ or any(stream and stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
        return None
    return PIPED_WIDTH
