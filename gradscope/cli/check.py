"""``gradscope check``: a verdict for a program, as an exit status."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from gradscope.cli.command import BadInputError, Commands, add_command, add_logdir, add_width, load_runs, writing
from gradscope.terminal import console, encodable, rendered, write
from gradscope.wording import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gradscope.check.baseline import Judged, Known
    from gradscope.records import Run

FORMATS = ("text", "github", "sarif", "json")

EXAMPLES = """\
  gradscope check                               exit 1 if a run in lightning_logs is sick
  gradscope check runs --fail-on critical       only if training does not work at all
  gradscope check runs --format github          with a note on the page of the workflow for each finding
  gradscope check runs --format sarif > gradscope.sarif
  gradscope check runs --write-baseline known.json
                                                accept what is found today, once
  gradscope check runs --baseline known.json    exit 1 only for what is not in it

exit status: 0 nothing new that is severe enough, 1 there is, 2 bad input
"""


def add(commands: Commands) -> None:
    """Add the command."""
    does = "tell by the exit status whether the runs under a directory are sound, for scripts and CI"
    parser = add_command(commands, "check", execute, does, EXAMPLES)
    add_logdir(parser)
    parser.add_argument(
        "--fail-on",
        choices=("warning", "critical"),
        default="warning",
        help="the least severity that fails the check (default: %(default)s)",
    )
    file = parser.add_mutually_exclusive_group()
    file.add_argument("--baseline", metavar="FILE", help="findings that are known: only others fail the check")
    file.add_argument("--write-baseline", metavar="FILE", help="write what is found to FILE: from then on it is known")
    parser.add_argument(
        "--format", choices=FORMATS, default="text", help="how to print the findings (default: %(default)s)"
    )
    add_width(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Print the findings and return 1 where any is new and severe enough."""
    from gradscope import rules
    from gradscope.check.baseline import baseline_of, judged
    from gradscope.records import Severity

    known = [] if arguments.baseline is None else _read(arguments.baseline)
    places = _places(arguments.logdir)
    findings = {name: rules.diagnose(place.run) for name, place in places.items()}
    if arguments.write_baseline is not None:
        known = baseline_of(findings)
        _write(arguments.write_baseline, known)
    result = judged(findings, known, Severity[arguments.fail_on.upper()])
    write(_printed(arguments, result, places))
    return 1 if result.fails else 0


class Place(NamedTuple):
    """A run and its directory."""

    path: "Path"
    run: "Run"


def _places(logdir: str) -> dict[str, Place]:
    from pathlib import Path

    places: dict[str, Place] = {}
    for key, run in load_runs(logdir).items():
        # The run at the directory itself is called after it, and a run below may be called the same.
        name = f"{run.name}/{key}" if run.name in places else run.name
        places[name] = Place(Path(logdir) if key == "." else Path(logdir) / key, run)
    return places


def _remarks(runs: "Mapping[str, Place]") -> list[str]:
    """Return what keeps a check from being one: damaged logs, and runs too short to be judged."""
    remarks = [f"{name}: {note}" for name, place in runs.items() for note in place.run.notes]
    short = [name for name, place in runs.items() if len(place.run.steps) < place.run.thresholds.minimum_records]
    return [one_line(remark) for remark in (*remarks, *(f"{name}: too few records to be judged" for name in short))]


def _printed(arguments: argparse.Namespace, result: "Judged", runs: "Mapping[str, Place]") -> str:
    from gradscope.records import Severity

    told = _remarks(runs)
    if arguments.format == "json":
        return _json(result, arguments.fail_on, told)
    if arguments.format == "sarif":
        return _sarif(arguments, result, {name: place.path for name, place in runs.items()})
    fail_on = Severity[arguments.fail_on.upper()]
    if arguments.format == "github":
        from gradscope.check.annotations import annotations
        from gradscope.check.baseline import verdict

        lines = (*annotations(result), *told, verdict(result, len(runs), fail_on))
        return encodable("".join(f"{line}\n" for line in lines))
    from gradscope.report.checked import Checked

    return rendered(console(arguments.width), Checked(result, len(runs), fail_on, told))


def _json(result: "Judged", fail_on: str, remarks: "Sequence[str]") -> str:
    import json

    findings = [
        {"run": run, "known": i in result.known, "fails": i in result.fails, **finding.as_dict()}
        for i, (run, finding) in enumerate(result.findings)
    ]
    content = {
        "passed": not result.fails,
        "fail_on": fail_on,
        "findings": findings,
        "gone": [entry._asdict() for entry in result.gone],
        "missing_runs": list(result.missing_runs),
        "remarks": list(remarks),
    }
    return json.dumps(content, allow_nan=False, indent=2) + "\n"


def _sarif(arguments: argparse.Namespace, result: "Judged", folders: "Mapping[str, Path]") -> str:
    import json

    from gradscope.check.sarif import sarif

    with_baseline = (arguments.baseline or arguments.write_baseline) is not None
    return json.dumps(sarif(result, folders, with_baseline), allow_nan=False, indent=2) + "\n"


def _read(name: str) -> "list[Known]":
    from pathlib import Path

    from gradscope.check.baseline import DamagedBaselineError, read

    try:
        return read(Path(name).read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInputError(
            f"`--baseline` must be a file that --write-baseline wrote, got {name!r}: {error.strerror}"
        ) from error
    except (DamagedBaselineError, UnicodeDecodeError) as error:
        why = error if isinstance(error, DamagedBaselineError) else "it is not JSON"
        raise BadInputError(
            f"`--baseline` must be a file that --write-baseline wrote, got {name!r}: {why}; write it anew"
        ) from error


def _write(name: str, known: "Sequence[Known]") -> None:
    from pathlib import Path

    from gradscope.check.baseline import written

    with writing("--write-baseline", name):
        Path(name).write_text(written(known), encoding="utf-8")
