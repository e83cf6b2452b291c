"""``gradscope compare``: experiments side by side, and where they part ways with a sound one."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from gradscope.cli.command import (
    DEFAULT_LOGDIR,
    BadInputError,
    Commands,
    add_command,
    add_output_options,
    completing_directories,
    load_runs,
)
from gradscope.terminal import console, rendered, write
from gradscope.wording import suggestion

if TYPE_CHECKING:
    from pathlib import Path

    from gradscope.compare.comparison import Comparison
    from gradscope.compare.experiments import Experiment
    from gradscope.events.event_files import EventFile, Files
    from gradscope.records import Run

EXAMPLES = """\
  gradscope compare                             all runs in lightning_logs
  gradscope compare runs/a runs/b               two runs, each by its directory
  gradscope compare runs --baseline a           all under a directory, and at which layer and step each parts from a
  gradscope compare runs --json                 for a program
"""


class Place(NamedTuple):
    """A run, where it lies, and its event files, which `files` opens."""

    path: "Path"
    files: "Files"
    listed: "Sequence[EventFile]"
    run: "Run"


def add(commands: Commands) -> None:
    """Add the command."""
    does = "set runs side by side: what they reached, how sound they are, and which settings differ"
    parser = add_command(commands, "compare", execute, does, EXAMPLES)
    completing_directories(
        parser.add_argument(
            "runs",
            nargs="*",
            default=[DEFAULT_LOGDIR],
            metavar="RUN",
            help=f"directories of runs, or one directory that holds several (default: {DEFAULT_LOGDIR})",
        )
    )
    parser.add_argument(
        "--baseline",
        metavar="RUN",
        help="a sound run, one of them by its name or another by its directory: tell where the others part from it",
    )
    add_output_options(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Print the comparison."""
    places = _places(arguments.runs)
    baseline = None if arguments.baseline is None else _baseline(places, arguments.baseline)
    if baseline is not None and baseline not in places:
        places.append(baseline)
    if len(places) < 2:
        raise BadInputError(
            f"`RUN` must name two runs or more, got one: {places[0].path.name}; `gradscope summary` tells about one"
        )
    experiments = [_experiment(place, name) for place, name in zip(places, _names(places, arguments.runs), strict=True)]
    against = None if baseline is None else experiments[places.index(baseline)]
    write(_told(arguments, experiments, against))
    return 0


def _told(arguments: argparse.Namespace, experiments: "Sequence[Experiment]", baseline: "Experiment | None") -> str:
    comparisons = [] if baseline is None else _comparisons(experiments, baseline)
    if arguments.json:
        import json

        from gradscope.compare.experiments import as_json

        name = None if baseline is None else baseline.name
        return json.dumps(as_json(experiments, name, comparisons), allow_nan=False, indent=2) + "\n"
    from gradscope.report.side_by_side import SideBySide

    return rendered(console(arguments.width), SideBySide(experiments, comparisons))


def _comparisons(experiments: "Sequence[Experiment]", baseline: "Experiment") -> "list[Comparison]":
    from gradscope.compare.comparison import compare

    return [compare(experiment.run, baseline.run) for experiment in experiments if experiment is not baseline]


def _places(paths: Sequence[str]) -> list[Place]:
    places = [place for path in paths for place in _runs_at(path)]
    seen: set[Path] = set()
    for place in places:
        if place.path in seen:
            raise BadInputError(f"`RUN` must name each run once, got {str(place.path)!r} twice; leave one out")
        seen.add(place.path)
    return places


def _runs_at(path: str) -> list[Place]:
    from pathlib import Path

    from gradscope.events.remote_files import files_under

    runs, files = load_runs(path), files_under(path)
    listed = files.runs()
    root = Path(path).resolve()
    return [Place(root if n == "." else root / n, files, listed.get(n, []), run) for n, run in runs.items()]


def _names(places: Sequence[Place], paths: Sequence[str]) -> list[str]:
    from gradscope.compare.naming import short_names

    # The runs under a single directory are called what the other commands call them.
    under_one = len(paths) == 1 and all(place.path.is_relative_to(_resolved(paths[0])) for place in places)
    names = [place.run.name for place in places]
    return names if under_one and len(set(names)) == len(names) else short_names([place.path for place in places])


def _resolved(path: str) -> "Path":
    from pathlib import Path

    return Path(path).resolve()


def _baseline(places: Sequence[Place], wanted: str) -> Place:
    from gradscope.compare.naming import short_names

    names = short_names([place.path for place in places])
    known = {name: place for place, name in zip(places, names, strict=True)}
    if wanted in known:
        return known[wanted]
    of_that_name = [name for name, place in known.items() if place.run.name == wanted]
    if len(of_that_name) > 1:
        raise BadInputError(
            f"`--baseline` must be one run, got {wanted!r}: that is {' and '.join(of_that_name)}; choose one"
        )
    if of_that_name:
        return known[of_that_name[0]]
    path = _resolved(wanted)
    if not path.exists():
        advice = suggestion(wanted, known, "it is a run's name, or its directory")
        raise BadInputError(f"`--baseline` must be a run, got {wanted!r}; {advice}")
    found = [place for place in places if place.path == path] or _runs_at(wanted)
    if len(found) > 1:
        raise BadInputError(
            f"`--baseline` must be one run, got {wanted!r} with {len(found)}; name the directory of one"
        )
    return next((place for place in places if place.path == found[0].path), found[0])


def _experiment(place: Place, name: str) -> "Experiment":
    from dataclasses import replace

    from gradscope import rules
    from gradscope.compare.experiments import Experiment
    from gradscope.compare.hparams import read_hparams
    from gradscope.compare.scalars import read_curves

    run = replace(place.run, name=name)
    folder = place.path if place.path.is_dir() else place.path.parent
    return Experiment(run, rules.diagnose(run), read_curves(place.files, place.listed), read_hparams(folder))
