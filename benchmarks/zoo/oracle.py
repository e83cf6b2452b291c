"""Measures, by brute force, whether the labels of a case are true. It shares no code with any tool that is judged.

A `Witness` watches the run as it happens; then the states at its start, 10 %, 50 % and the end are replayed in float64
over the whole training set. From these facts each label's rule says yes, no or grey.
"""

from typing import NamedTuple

from zoo.case import Case, LayerGroup
from zoo.facts import Facts, measure
from zoo.truth import TRUTH, Answer, Verdict


class Measured(NamedTuple):
    """A case as it was measured: `wrong` is every way in which its labels disagree with that."""

    case: Case
    facts: Facts
    cured: Facts | None
    verdicts: dict[str, Verdict]
    wrong: list[str]


def examine(case: Case) -> Measured:
    """Train `case` and its cured twin, and hold its labels against what was measured.

    Raises:
        MissingImagesError: the case needs images that cannot be had.
    """
    facts = measure(case)
    cured = measure(case.cured()) if case.cure else None
    verdicts = {label: rule(facts, cured) for label, rule in TRUTH.items()}
    wrong = [w for label, verdict in verdicts.items() for w in _disagreements(case, label, verdict)]
    if case.learns_to is not None and not facts.loss_end <= case.learns_to:
        wrong.append(f"the sound run ends at loss {facts.loss_end:.4g}, above {case.learns_to}")
    if cured is not None and not cured.loss_end < 0.7 * cured.loss_start:
        wrong.append(f"the cured twin does not learn: {cured.loss_start:.4g} -> {cured.loss_end:.4g}")
    return Measured(case, facts, cured, verdicts, wrong)


def _disagreements(case: Case, label: str, verdict: Verdict) -> list[str]:
    """Compare one label. One of `also_true` may be measured "no": it may hold for some seeds only."""
    answer, layers = verdict
    if label not in case.labels:
        grey = answer is Answer.NO or label in case.also_true
        return [] if grey else [f"{label} is measured {answer.value} {layers[:4]} but not written"]
    wrong = [] if answer is Answer.YES else [f"{label} is written but measured {answer.value}"]
    groups = case.guilty.get(label, ())
    allowed = (*groups, *case.tolerated.get(label, ()))
    wrong += [
        f"{label}: {group} is written guilty but not measured so"
        for group in groups
        if not any(_covers(group, n) for n in layers)
    ]
    wrong += [
        f"{label}: {n} is measured guilty but not written"
        for n in layers
        if groups and not any(_covers(group, n) for group in allowed)
    ]
    return wrong


def _covers(group: LayerGroup, measured: str) -> bool:
    """Say whether a measured name (fc1.weight, net.act2#1, cell@3) belongs to a written group of names."""
    bare = measured.split("#")[0].split("@")[0]
    return any(g in (bare, measured) or bare.startswith(g + ".") for g in group)
