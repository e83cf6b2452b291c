"""``gradscope summary``: what is wrong with the runs of a log, and what to change."""

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from gradscope.cli.command import (
    DEFAULT_LOGDIR,
    BadInputError,
    Commands,
    add_command,
    add_logdir,
    add_output_options,
    load_runs,
)
from gradscope.terminal import console, rendered, write
from gradscope.wording import suggestion

if TYPE_CHECKING:
    from gradscope.records import Finding, Run
    from gradscope.report import Reports

MOST_LAYERS = 60
"""Rows of the table: of a larger net those that findings name come first. More would push the findings out of sight."""

EXAMPLES = """\
  gradscope summary                             the newest run in lightning_logs
  gradscope summary lightning_logs/version_3    a single run
  gradscope summary runs --json                 all runs under a directory, for a program
  gradscope summary --layer 'encoder.*' --steps 0:100 --metric dead_fraction
"""


def add(commands: Commands) -> None:
    """Add the command."""
    does = "tell what is wrong with the runs under a directory, and what to change"
    parser = add_command(commands, "summary", execute, does, EXAMPLES)
    add_logdir(parser, None, f"the newest run in {DEFAULT_LOGDIR}")
    parser.add_argument(
        "--layer", action="append", metavar="GLOB", help="layers to show; a leading ! excludes; repeatable"
    )
    parser.add_argument(
        "--metric", metavar="NAME", help="what the heat map draws (default: grad_norm, for a single run)"
    )
    parser.add_argument("--steps", type=_steps, metavar="A:B", help="records to show; 100: means from step 100 on")
    parser.add_argument("--all-layers", action="store_true", help=f"list more than {MOST_LAYERS} layers, too")
    parser.add_argument("--sort", default="model", metavar="BY", help="model (default), severity, name or a metric")
    add_output_options(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Print the reports of all runs under a directory, or of the newest in the usual one."""
    runs = load_runs(arguments.logdir or DEFAULT_LOGDIR)
    if arguments.logdir is None:
        newest = max(runs, key=lambda name: runs[name].wall_times[-1] if len(runs[name].steps) else 0.0)
        runs = {newest: runs[newest]}
    _check_metrics(arguments, runs)
    shown = [_Shown(_selected(run, arguments), _findings(run)) for run in runs.values()]
    _check_selection(arguments, runs, shown)
    write(_json(shown) if arguments.json else rendered(console(arguments.width), _reports(shown, arguments)))
    return 0


class _Shown(NamedTuple):
    """What is shown of a run, and what was found in all of it."""

    run: "Run"
    findings: "Sequence[Finding]"


def _findings(run: "Run") -> "Sequence[Finding]":
    from gradscope import rules

    return rules.diagnose(run)


def _selected(run: "Run", arguments: argparse.Namespace) -> "Run":
    from gradscope.patterns import NamePatterns
    from gradscope.selection import selected

    if arguments.layer is None and arguments.steps is None:
        return run
    first, last = arguments.steps or (None, None)
    return selected(run, NamePatterns(tuple(arguments.layer or ("*",))), first, last)


def _steps(text: str) -> tuple[int | None, int | None]:
    first, colon, last = text.partition(":")
    if not colon or not all(part.isdecimal() or not part for part in (first, last)):
        raise argparse.ArgumentTypeError(f"expected a range of steps like 100:500, 100: or :500, got {text!r}")
    return (int(first) if first else None, int(last) if last else None)


def _check_selection(arguments: argparse.Namespace, runs: "Mapping[str, Run]", shown: "Sequence[_Shown]") -> None:
    from gradscope.patterns import NamePatterns

    names = [layer.name for run in runs.values() for layer in run.layers]
    if missed := NamePatterns(tuple(arguments.layer or ())).without_match(names):
        raise BadInputError(f"`--layer` must match a layer, got {missed[0]!r}; `gradscope summary` lists them")
    if arguments.steps is not None and not any(len(one.run.steps) for one in shown):
        first, last = arguments.steps
        raise BadInputError(
            f"`--steps` must hold a record, got {'' if first is None else first}:{'' if last is None else last}; "
            "`gradscope summary` tells which steps there are"
        )


def _check_metrics(arguments: argparse.Namespace, runs: "Mapping[str, Run]") -> None:
    from gradscope.report.layer_table import SORTS

    known = dict.fromkeys(column.name for run in runs.values() for column in run.columns)
    if arguments.metric is not None and arguments.metric not in known:
        advice = suggestion(arguments.metric, known, f"there are {', '.join(known)}")
        raise BadInputError(f"`--metric` must be one that was recorded, got {arguments.metric!r}; {advice}")
    if arguments.sort not in (*SORTS, *known):
        advice = suggestion(arguments.sort, (*SORTS, *known), f"there are {', '.join([*SORTS, *known])}")
        raise BadInputError(f"`--sort` must be an order or a metric, got {arguments.sort!r}; {advice}")


def _json(shown: "Sequence[_Shown]") -> str:
    import json

    from gradscope.summary import as_json

    return json.dumps({"runs": [as_json(*one) for one in shown]}, allow_nan=False, indent=2) + "\n"


def _reports(shown: "Sequence[_Shown]", arguments: argparse.Namespace) -> "Reports":
    from gradscope.report import Report, Reports

    # Of many runs the pictures would push the overview out of sight.
    metric = arguments.metric or ("grad_norm" if len(shown) == 1 else None)
    most = None if arguments.all_layers else MOST_LAYERS
    return Reports([Report(run, found, most, arguments.sort, metric) for run, found in shown])
