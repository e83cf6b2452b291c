"""``gradscope export``: what was measured, as rows for other programs."""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from gradscope.cli.command import BadInputError, Commands, add_command, add_logdir, load_runs, writing
from gradscope.terminal import encodable, write
from gradscope.wording import counted, one_line, suggestion

if TYPE_CHECKING:
    from gradscope.export.tidy import Choice, Table
    from gradscope.records import Run

EXAMPLES = """\
  gradscope export runs --to csv -o runs.csv    all that was measured: run, step, wall_time, layer, type, kind, metric,
                                                value; what belongs to the whole net has no layer
  gradscope export runs --to csv --metric loss  a single series, to the terminal
  gradscope export runs --to json --layer 'encoder.*' --metric grad_norm --metric act_var
  gradscope export runs --to parquet -o runs.parquet
                                                needs pyarrow, from the extra `export`
"""


def add(commands: Commands) -> None:
    """Add the command."""
    does = "write what was measured as a table, a row for each number, for other programs"
    parser = add_command(commands, "export", execute, does, EXAMPLES)
    add_logdir(parser)
    parser.add_argument("--to", choices=("csv", "parquet", "json"), required=True, help="the format")
    parser.add_argument("-o", "--output", metavar="FILE", help="the file to write (default: to stdout)")
    parser.add_argument(
        "--metric", action="append", default=[], metavar="NAME", help="only this metric; may be given several times"
    )
    parser.add_argument(
        "--layer",
        action="append",
        default=[],
        metavar="GLOB",
        help="only layers of such names, * and ? stand for anything, a leading ! excludes; repeatable",
    )


def execute(arguments: argparse.Namespace) -> int:
    """Write the rows."""
    from gradscope.export.tidy import Choice, Table

    if arguments.to == "parquet" and arguments.output is None:
        raise BadInputError("`--to parquet` writes no text, so it needs a file: give `-o FILE`")
    runs = list(load_runs(arguments.logdir).values())
    choice = Choice(tuple(arguments.metric), tuple(arguments.layer))
    _check(choice, runs)
    tables = [Table(run, choice) for run in runs]
    if arguments.output is None:
        for text in _chunks(arguments.to, tables):
            write(encodable(text))
        return 0
    with writing("--output", arguments.output):
        _write(arguments.to, tables, arguments.output)
    write(encodable(f"{one_line(arguments.output)}: {counted(len(runs), 'run')}\n"))
    return 0


def _check(choice: "Choice", runs: "Sequence[Run]") -> None:
    from gradscope.export.tidy import names_of

    known = dict.fromkeys(name for run in runs for name in names_of(run))
    for metric in choice.metrics:
        if metric not in known:
            advice = suggestion(metric, known, f"there are {', '.join(known)}")
            raise BadInputError(f"`--metric` must be one that was recorded, got {metric!r}; {advice}")
    names = {"", *(layer.name for run in runs for layer in run.layers)}
    if not any(map(choice.takes_layer, names)):
        raise BadInputError(
            f"`--layer` must match a layer, got {', '.join(map(repr, choice.layers))}; "
            "`gradscope summary` lists their names"
        )


def _chunks(format_name: str, tables: "Iterable[Table]") -> Iterator[str]:
    from gradscope.export.text import csv_lines, json_lines

    return csv_lines(tables) if format_name == "csv" else json_lines(tables)


def _write(format_name: str, tables: "Sequence[Table]", output: str) -> None:
    from pathlib import Path

    if format_name == "parquet":
        from gradscope.export.tables import MissingExtraError, write_parquet

        try:
            write_parquet(tables, Path(output))
        except MissingExtraError as error:
            raise BadInputError(f"`--to parquet` cannot be written: {error}") from error
        return
    with Path(output).open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        file.writelines(_chunks(format_name, tables))
