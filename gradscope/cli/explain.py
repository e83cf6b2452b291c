"""``gradscope explain``: what a finding is, how it is measured, and what to do about it."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gradscope.cli.command import BadInputError, Commands, add_command, add_output_options
from gradscope.terminal import console, rendered, write
from gradscope.wording import suggestion

if TYPE_CHECKING:
    from gradscope.explanations import Explanation

EXAMPLES = """\
  gradscope explain                             all findings, a line each
  gradscope explain dead_relu                   one of them: its mathematics, its threshold, its cures
"""


def add(commands: Commands) -> None:
    """Add the command."""
    does = "tell what a finding is, how it is measured, and what to do about it"
    parser = add_command(commands, "explain", execute, does, EXAMPLES)
    parser.add_argument("code", nargs="?", metavar="CODE", help="the finding, dead_relu say (default: a list of all)")
    add_output_options(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Print what one finding is, or a list of all."""
    from gradscope.explanations import EXPLANATIONS

    code = arguments.code
    if code is not None and code not in EXPLANATIONS:
        raise BadInputError(_unknown_code(code, list(EXPLANATIONS)))
    chosen = list(EXPLANATIONS.values()) if code is None else [EXPLANATIONS[code]]
    if arguments.json:
        write(_json(chosen))
        return 0
    from gradscope.report.explained import Explained, Index

    write(rendered(console(arguments.width), Index(chosen) if code is None else Explained(chosen[0])))
    return 0


def _unknown_code(code: str, known: list[str]) -> str:
    advice = suggestion(code.lower().replace("-", "_"), known, "`gradscope explain` lists them", 0.4)
    return f"`CODE` must be the code of a finding, got {code!r}; {advice}"


def _json(explanations: "Sequence[Explanation]") -> str:
    import json
    from dataclasses import asdict

    from gradscope.explanations import values_of
    from gradscope.thresholds import Thresholds

    objects = [{**asdict(e), "thresholds": values_of(e, Thresholds())} for e in explanations]
    return json.dumps({"explanations": objects}, indent=2) + "\n"
