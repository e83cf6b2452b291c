"""``gradscope --version``: which one it is, and a warning where another package of the same name is in its way."""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from gradscope import __version__
from gradscope.terminal import write

OURS, NAMESAKE = "lightning-gradscope", "gradscope"


class Version(argparse.Action):
    """Prints the version and ends."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="print which version this is, and end")

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> NoReturn:
        """Print, warn, and end with status 0."""
        write(f"gradscope {__version__} ({OURS})\n")
        if _is_installed(NAMESAKE):
            print(
                f"gradscope: warning: the distribution `{NAMESAKE}`, by other people, is installed as well, and the "
                f"two overwrite each other's files; `pip uninstall {NAMESAKE}`, then install {OURS} again",
                file=sys.stderr,
            )
        raise SystemExit(0)


def _is_installed(distribution: str) -> bool:
    from importlib.metadata import PackageNotFoundError, version

    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True
