"""Lets GradScope and the rule sets judge cases of the zoo, and GradScope again without one of its rules.

GradScope has a fit of its own, as its users have it. All rule sets share another one: they only watch.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytorch_lightning as pl
from rule_sets import RULE_SETS
from rule_sets.watch import Watch
from zoo.case import Case
from zoo.fit import fit
from zoo.scoring import Outcome, Verdicts, first_steps

import gradscope.rules
from gradscope import GradScope
from gradscope.records import Finding, Run, Severity

GRADSCOPE = "GradScope"
SYSTEMS = (GRADSCOPE, *RULE_SETS)


class Judged(NamedTuple):
    """What each system said of a case, by its name; `run` is what GradScope recorded, where it was asked."""

    outcomes: dict[str, Outcome]
    run: Run | None


class Memory(pl.Callback):
    """Keeps what GradScope had recorded after each record: a user could have asked it then; to stand behind it."""

    def __init__(self, scope: GradScope) -> None:
        self.scope = scope
        self.runs: list[Run] = []
        self.batches = 0

    def on_train_batch_end(self, *args: Any) -> None:
        self.batches += 1
        run = self.scope.run
        if len(run.steps) and (not self.runs or run.steps[-1] > self.runs[-1].steps[-1]):
            self.runs.append(run)


def judge(case: Case, systems: Sequence[str]) -> Judged:
    """Train `case` under the eyes of `systems`, some of `SYSTEMS`.

    Raises:
        MissingImagesError: the case needs images that cannot be had.
    """
    outcomes: dict[str, Outcome] = {}
    run = None
    if GRADSCOPE in systems:
        outcomes[GRADSCOPE], run = _judge_by_gradscope(case)
    rule_sets = [name for name in systems if name in RULE_SETS]
    if rule_sets:
        outcomes |= _judge_by_rule_sets(case, rule_sets)
    return Judged(outcomes, run)


def _judge_by_gradscope(case: Case) -> tuple[Outcome, Run]:
    scope = GradScope(summary=False)
    memory = Memory(scope)
    fitted = fit(case, [scope, memory])
    history = [(int(run.steps[-1]), _labels(verdicts(gradscope.rules.diagnose(run)))) for run in memory.runs]
    said = verdicts(scope.findings)
    history.append((memory.batches - 1, _labels(said)))
    noticed = first_steps(history, case.onset)
    return Outcome(case, said, noticed, memory.batches, _reason(fitted.error)), scope.run


def _judge_by_rule_sets(case: Case, names: Sequence[str]) -> dict[str, Outcome]:
    watch = Watch([RULE_SETS[name]() for name in names])
    fitted = fit(case, [watch])
    said = watch.verdicts()
    return {
        name: Outcome(case, said[i], first_steps(watch.history[i], case.onset), watch.batches, _reason(fitted.error))
        for i, name in enumerate(names)
    }


def verdicts(findings: Iterable[Finding]) -> Verdicts:
    """Return what findings say, those that only inform aside: a label with each layer, or with None for the whole net.

    The second call of a module in one forward, ``act#2``, is that module.
    """
    said: set[tuple[str, str | None]] = set()
    for finding in findings:
        if finding.severity >= Severity.WARNING:
            layers: list[str | None] = [re.sub(r"#\d+$", "", layer) for layer in finding.layers]
            said |= {(finding.code, layer) for layer in layers or [None]}
    return frozenset(said)


def rule_names() -> list[str]:
    """Return the names of GradScope's rules, in their order."""
    return [_name(rule) for rule in gradscope.rules.RULES]


def judge_without(rule: str, run: Run) -> Verdicts:
    """Return what GradScope says of `run` without the rule of that name."""
    with _rules_without(rule):
        return verdicts(gradscope.rules.diagnose(run))


@contextmanager
def _rules_without(rule: str) -> Iterator[None]:
    rules = gradscope.rules.RULES
    gradscope.rules.RULES = tuple(r for r in rules if _name(r) != rule)
    try:
        yield
    finally:
        gradscope.rules.RULES = rules


def _name(rule: object) -> str:
    return str(getattr(rule, "__name__", rule))


def _labels(said: Verdicts) -> frozenset[str]:
    return frozenset(label for label, _ in said)


def _reason(error: Exception | None) -> str:
    return "" if error is None else f"{type(error).__name__}: {error}"[:200]
