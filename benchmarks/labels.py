"""Checks the labels of the zoo: measures by brute force whether what is written of each case is true.

    python benchmarks/labels.py                              # some ten minutes
    python benchmarks/labels.py --cases selu --seed-shift 1000
    python benchmarks/labels.py --markdown > evidence.md     # what was measured, a line for each case

The exit status is 1 where a label disagrees with the measurement. The cases on images need MNIST, see detection.py.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace

from tables import show
from zoo.cases import cases_named
from zoo.data import MissingImagesError
from zoo.evidence import HEADER, line
from zoo.facts import Facts
from zoo.oracle import Measured, examine
from zoo.truth import Answer, progress


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    wrong = 0
    if options.markdown:
        print(HEADER)
    for case in options.chosen:
        try:
            measured = examine(replace(case, seed=case.seed + options.seed_shift))
        except MissingImagesError as error:
            show(f"skipped {case.name}: {error}")
            continue
        wrong += bool(measured.wrong)
        if options.markdown:
            print(line(measured))
        else:
            show("\n".join(lines(measured)))
    if not options.markdown:
        show(f"{wrong} case(s) disagree with the measurement")
    return int(wrong > 0)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", metavar="PART", default=[""], help="only those with this in their name")
    parser.add_argument("--seed-shift", type=int, default=0, help="added to the seed of each case (default: 0)")
    parser.add_argument("--markdown", action="store_true", help="print what was measured as a table")
    options = parser.parse_args(arguments)
    try:
        options.chosen = cases_named(options.cases)
    except ValueError as error:
        parser.error(str(error))
    return options


def lines(measured: Measured) -> Iterator[str]:
    case, facts, cured, verdicts, wrong = measured
    yield f"{'BAD' if wrong else 'ok '}  {case.name}: {summary(facts)}"
    if cured is not None:
        yield f"       cured: {summary(cured)}; progress {progress(facts, cured):.2f}"
    for label, (answer, layers) in verdicts.items():
        if answer is not Answer.NO:
            yield f"       {answer.value:4} {label} {layers[:6]}{' ...' if len(layers) > 6 else ''}"
    for w in wrong:
        yield f"       !! {w}"


def summary(f: Facts) -> str:
    accuracy = "" if f.accuracy_end is None else f" acc {f.accuracy_end:.2f}"
    return f"loss {f.loss_start:.4g} -> {f.loss_end:.4g}{accuracy}, {f.steps_done} steps in {f.seconds:.1f} s"


if __name__ == "__main__":
    raise SystemExit(main())
