"""The tables of `detection.py`."""

from collections.abc import Iterator, Sequence

from judging import GRADSCOPE, Judged, judge_without, rule_names
from rich.table import Table
from tables import table
from zoo.case import LABELS
from zoo.scoring import Outcome, Score, Tally

UNDEFINED = "–"


def by_system(judged: Sequence[Judged], systems: Sequence[str]) -> Table:
    filled = table(
        _runs(judged), "", "precision", "recall", "F1", "false alarms on sound runs", "guilty layers named",
        "layers named rightly", "noticed after, steps", "of the run",
    )  # fmt: skip
    for system in systems:
        score = _score(judged, system)
        total, delay = score.micro(), score.median_delay()
        filled.add_row(
            system,
            *_rates(total),
            f"{score.sound_with_false_alarm()[0]} of {score.sound_with_false_alarm()[1]}",
            _of(total.named_groups, total.guilty_groups),
            _of(total.right_layers, total.named_layers),
            UNDEFINED if delay is None else f"{delay:g}",
            _percent(score.median_share()),
        )
    return filled


def by_label(judged: Sequence[Judged], systems: Sequence[str]) -> Table:
    filled = table("Precision, recall and F1 for each code", "", "true in", *systems)
    scores = [_score(judged, system) for system in systems]
    for label in LABELS:
        tallies = [score.of(label) for score in scores]
        filled.add_row(label, str(tallies[0].hit + tallies[0].missed), *(" ".join(_rates(t)) for t in tallies))
    return filled


def agreement(judged: Sequence[Sequence[Judged]], systems: Sequence[str]) -> Table:
    """Compare the seeds: a list of what was said for each of them, with the same cases in the same order."""
    columns = [f"F1, seed {i + 1}" for i in range(len(judged))]
    filled = table("From seed to seed", "", *columns, "the same codes with all seeds")
    for system in systems:
        same = [len({j.outcomes[system].reported for j in seeds}) == 1 for seeds in zip(*judged, strict=True)]
        f1s = [_rate(_score(runs, system).micro().f1) for runs in judged]
        filled.add_row(system, *f1s, f"{sum(same)} of {len(same)} cases")
    return filled


def ablation(judged: Sequence[Judged]) -> Table:
    """Tell what is lost when GradScope has one rule less."""
    filled = table("GradScope without a rule", "rule", "F1", "found no more", "found only then", "false alarms")
    whole = [(j.outcomes[GRADSCOPE], j.run) for j in judged]
    before = Score([outcome for outcome, _ in whole])
    filled.add_row("(with all)", _rate(before.micro().f1), "", "", str(before.micro().false_alarm))
    for rule in rule_names():
        outcomes = [_without(rule, judgement) for judgement in judged]
        pairs = list(zip(before.outcomes, outcomes, strict=True))
        after = Score(outcomes).micro()
        lost = sum(len(old.hits - new.hits) for old, new in pairs)
        won = sum(len(new.hits - old.hits) for old, new in pairs)
        filled.add_row(rule, _rate(after.f1), str(lost), str(won), str(after.false_alarm))
    return filled


def details(judged: Sequence[Sequence[Judged]], systems: Sequence[str]) -> Iterator[str]:
    """Yield what was said of each case: a line for each system and seed."""
    for seeds in zip(*judged, strict=True):
        case = seeds[0].outcomes[systems[0]].case
        expected = ", ".join(sorted(case.labels)) or "sound"
        neutral = f" (not scored: {', '.join(sorted(case.also_true))})" if case.also_true else ""
        yield f"\n{case.name}: {expected}{neutral}"
        for i, judgement in enumerate(seeds):
            for system in systems:
                seed = f", seed {i + 1}" if len(seeds) > 1 else ""
                yield f"  {system}{seed}: {_detail(judgement.outcomes[system])}"


def _detail(outcome: Outcome) -> str:
    parts = [f"found {_list(outcome.reported)}"]
    parts += [f"missing {_list(outcome.missed)}"] if outcome.missed else []
    parts += [f"wrong {_list(outcome.false_alarms)}"] if outcome.false_alarms else []
    for label in sorted(outcome.hits):
        delay = outcome.delay(label)
        parts += [] if delay is None else [f"{label} noticed after {delay} of {outcome.steps} steps"]
        if wrong := outcome.wrongly_named(label):
            parts.append(f"{label} wrongly of {_list(wrong)}")
    return "; ".join(parts)


def _without(rule: str, judged: Judged) -> Outcome:
    outcome, run = judged.outcomes[GRADSCOPE], judged.run
    assert run is not None  # there is one wherever GradScope judged
    return Outcome(outcome.case, judge_without(rule, run), {}, outcome.steps)


def _score(judged: Sequence[Judged], system: str) -> Score:
    return Score([j.outcomes[system] for j in judged])


def _runs(judged: Sequence[Judged]) -> str:
    cases = [next(iter(j.outcomes.values())).case for j in judged]
    sound = sum(case.sound for case in cases)
    return f"{len(cases) - sound} sick and {sound} sound runs"


def _rates(tally: Tally) -> tuple[str, str, str]:
    return _rate(tally.precision), _rate(tally.recall), _rate(tally.f1)


def _rate(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:.0%}"


def _of(part: int, whole: int) -> str:
    return f"{part} of {whole}" if whole else UNDEFINED


def _list(names: frozenset[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"
