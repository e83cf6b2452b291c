"""``gradscope run``: a training script as it is, with GradScope in each of its Trainers."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from gradscope.cli.command import BadInputError, Commands, add_command

EXAMPLES = """\
  gradscope run train.py --lr 0.1               python train.py --lr 0.1, watched
  gradscope run -m project.train                python -m project.train, watched
  gradscope run --every-n-steps 5 --on-finding critical=stop train.py
  gradscope run --layers 'encoder.*' --layers '!*.norm' --thresholds dead_fraction=0.6 train.py

GradScope's options stand before the script, and are those of `gradscope.GradScope`; a Trainer that has a GradScope
already keeps that. Where the script is started by another program, two variables in the environment do the same:
  GRADSCOPE=1 GRADSCOPE_OPTIONS='{"every_n_steps": 5}' torchrun train.py

exit status: that of the script; 2 on bad input
"""


def add(commands: Commands) -> None:
    """Add the command."""
    does = "run a training script as it is, and attach GradScope to each of its Trainers"
    parser = add_command(commands, "run", execute, does, EXAMPLES)
    add_options(parser.add_argument_group("options of GradScope"))
    parser.add_argument(
        "-m", action="store_true", dest="as_module", help="SCRIPT is the name of a module, as in python"
    )
    parser.add_argument("script", metavar="SCRIPT", help="what python would be given")
    rest = parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="the script's own arguments")
    rest.required = False  # argparse would name it where SCRIPT is missing


def add_options(group: "argparse._ArgumentGroup") -> None:
    """Add the options of `GradScope`, each of which is absent where it is not given."""

    def option(flag: str, to: "argparse._ActionsContainer" = group, **how: Any) -> None:
        to.add_argument(flag, default=argparse.SUPPRESS, **how)

    option("--every-n-steps", type=int, metavar="N", help="record every N steps")
    option("--budget", type=float, metavar="SHARE", help="in its place: the share of the step time to take, as 0.02")
    option("--layers", action="append", metavar="PATTERN", help="watch these; a leading ! excludes; again for more")
    option(
        "--thresholds",
        action="append",
        type=_threshold,
        metavar="NAME=VALUE",
        help="what the rules judge by; again for more",
    )
    option("--exact", action="store_true", help="measure from all elements, not from a sample")
    option("--flight-recorder", type=int, metavar="N", help="steps before a disaster to keep")
    option(
        "--on-finding",
        action="append",
        metavar="[SEVERITY=]ACTION",
        help="ignore, warn, stop or raise; for one severity: critical=stop",
    )
    log = group.add_mutually_exclusive_group()
    option("--log", log, action="append", metavar="PART", help="what goes to the loggers; again for more")
    option("--no-log", log, action="store_false", dest="log", help="nothing goes to the loggers")
    option("--no-summary", action="store_false", dest="summary", help="print no summary at the end of a fit")


def execute(arguments: argparse.Namespace) -> int:
    """Run the script in this process, as python would, and say if no Trainer came."""
    from gradscope.cli.script import run
    from gradscope.lightning import environment

    _check_installed()
    os.environ |= environment.switched_on(_options(arguments))
    try:
        run(arguments.script, arguments.arguments, arguments.as_module)
    except SystemExit as end:
        if not end.code:
            _say_if_unused(environment.trainers)
        raise
    _say_if_unused(environment.trainers)
    return 0


def _say_if_unused(trainers: int) -> None:
    if not trainers:
        print("gradscope: no Trainer was made in this process, so that there was nothing to watch", file=sys.stderr)


def _check_installed() -> None:
    from importlib.metadata import entry_points

    if "gradscope" not in entry_points(group="pytorch_lightning.callbacks_factory").names:
        raise BadInputError("Lightning cannot find GradScope among the installed packages; install it anew")


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options given, checked, in the form in which the environment holds them."""
    from gradscope.lightning import options
    from gradscope.lightning.environment import as_arguments

    names = ("every_n_steps", *options.CHECKS)
    given: dict[str, Any] = {name: value for name, value in vars(arguments).items() if name in names}
    if "thresholds" in given:
        given["thresholds"] = dict(given["thresholds"])
    if "on_finding" in given:
        given["on_finding"] = _policy(given["on_finding"])
    try:
        options.check(as_arguments(json.dumps(given)))
    except (TypeError, ValueError) as error:
        raise BadInputError(str(error)) from error
    return given


def _threshold(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}; dead_fraction=0.6, say")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value  # which the check of the option complains of


def _policy(given: Sequence[str]) -> str | dict[str, str]:
    """Return the actions by severity, or the one for all."""
    if len(given) == 1 and "=" not in given[0]:
        return given[0]
    return {severity: action for severity, _, action in (text.partition("=") for text in given)}
