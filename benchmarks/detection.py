"""How well GradScope tells sick runs from sound ones, beside the rules of other tools, on the runs of `zoo`.

    python benchmarks/detection.py                              # all cases and systems, about seven minutes
    python benchmarks/detection.py --cases selu nan --details   # some cases, and what was said of each
    python benchmarks/detection.py --seeds 3 --ablation         # other seeds too, and GradScope without each rule

A label counts as found where a finding says so that is at least a warning. *Layers*: of the guilty layers of the cases
where they are known, how many were named, and of the layers named there, how many are guilty. *Noticed*: the steps from
the onset of the fault until the finding first stood there, the median over what was found.

Most cases train on 5,120 images of MNIST's test set, which is looked for in the folder that GRADSCOPE_DATA names, else
in ./data, where `make demo` downloads it. Without it those cases are skipped.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace

from detection_tables import ablation, agreement, by_label, by_system, details
from judging import GRADSCOPE, SYSTEMS, Judged, judge
from rich.console import Console
from rich.progress import track
from tables import show
from zoo.case import Case
from zoo.cases import cases_named
from zoo.data import MissingImagesError

SEED_SHIFT = 1000
"""What is added to the seed of a case for each further seed: its labels were measured to hold for the first three."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    judged = judge_all(options.chosen, options.systems, options.seeds)
    if not judged[0]:
        show("No case was judged.")
        return
    together = [j for runs in judged for j in runs]
    show(by_system(together, options.systems), by_label(together, options.systems))
    if options.seeds > 1:
        show(agreement(judged, options.systems))
    if options.ablation:
        show(ablation(together))
    for outcome in (o for j in together for o in j.outcomes.values() if o.error):
        show(f"{outcome.case.name} was ended by {outcome.error}")
    if options.details:
        show("\n".join(details(judged, options.systems)))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", metavar="PART", default=[""], help="only those with this in their name")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=[*SYSTEMS], help="who judges (default: all)")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds for each case (default: %(default)s)")
    parser.add_argument("--ablation", action="store_true", help="also GradScope without each of its rules in turn")
    parser.add_argument("--details", action="store_true", help="also what was said of each case")
    options = parser.parse_args(arguments)
    try:
        options.chosen = cases_named(options.cases)
    except ValueError as error:
        parser.error(str(error))
    if options.seeds < 1:
        parser.error(f"--seeds must be at least 1, got {options.seeds}")
    if options.ablation and GRADSCOPE not in options.systems:
        parser.error(f"--ablation needs {GRADSCOPE} among the --systems")
    return options


def judge_all(cases: Sequence[Case], systems: Sequence[str], seeds: int) -> list[list[Judged]]:
    """Return what was said with each seed of the cases whose data are there; say which ones are skipped, and why."""
    judged: list[list[Judged]] = [[] for _ in range(seeds)]
    skipped: dict[str, list[str]] = {}
    progress = Console(stderr=True)
    for case in track(cases, "Training", console=progress, transient=True, disable=not progress.is_terminal):
        try:
            for i, runs in enumerate(judged):
                runs.append(judge(replace(case, seed=case.seed + i * SEED_SHIFT), systems))
        except MissingImagesError as reason:
            skipped.setdefault(str(reason), []).append(case.name)
    for why, names in skipped.items():
        show(f"Skipped {len(names)} of {len(cases)} cases: {why}. They are {', '.join(names)}.\n")
    return judged


if __name__ == "__main__":
    main()
