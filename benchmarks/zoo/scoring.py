"""Scores verdicts on cases: what was found, what was missed, what was made up, and how soon."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, fields
from statistics import median

from zoo.case import LABELS, Case, LayerGroup

Verdicts = frozenset[tuple[str, str | None]]
"""Labels, each with the dotted name of a module or a parameter, or None where no layer is named."""


@dataclass(frozen=True)
class Outcome:
    """What one system said of one case.

    `noticed` maps a label to the step, counted from 0, after which it stood there for the first time (see
    `first_steps`). `steps` is the length of the run. `error` is what ended the fit early, where something did.
    """

    case: Case
    verdicts: Verdicts
    noticed: Mapping[str, int]
    steps: int
    error: str = ""

    @property
    def reported(self) -> frozenset[str]:
        return frozenset(label for label, _ in self.verdicts if label in LABELS)

    @property
    def hits(self) -> frozenset[str]:
        return self.case.labels & self.reported

    @property
    def missed(self) -> frozenset[str]:
        return self.case.labels - self.reported

    @property
    def false_alarms(self) -> frozenset[str]:
        return self.reported - self.case.labels - self.case.also_true

    @property
    def right(self) -> bool:
        return not self.missed and not self.false_alarms

    def named(self, label: str) -> frozenset[str]:
        """Return the layers that were named with `label`, without those whose naming is neither right nor wrong."""
        tolerated = self.case.tolerated.get(label, ())
        layers = {layer for said, layer in self.verdicts if said == label and layer is not None}
        return frozenset(layer for layer in layers if not _belongs(layer, *tolerated))

    def wrongly_named(self, label: str) -> frozenset[str]:
        """Return the layers that were named with `label` and are not guilty: none where the culprits are not known."""
        guilty = self.case.guilty.get(label, ())
        return frozenset(layer for layer in self.named(label) if guilty and not _belongs(layer, *guilty))

    def delay(self, label: str) -> int | None:
        """Return the steps from the onset of the fault until `label` was noticed; None where that is not known."""
        return self.noticed[label] - self.case.onset if label in self.noticed else None


@dataclass(frozen=True)
class Tally:
    """Counts, of one label or of several.

    Over the hits whose culprits are known: `guilty_groups` is how many layers there are to name, and `named_groups` how
    many of them were named; `named_layers` is how many layers were named, and `right_layers` how many of those rightly.
    """

    hit: int = 0
    missed: int = 0
    false_alarm: int = 0
    guilty_groups: int = 0
    named_groups: int = 0
    named_layers: int = 0
    right_layers: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def precision(self) -> float | None:
        """Share of right ones among what was said: None where nothing was said."""
        said = self.hit + self.false_alarm
        return self.hit / said if said else None

    @property
    def recall(self) -> float | None:
        """Share of what is true that was said: None where nothing is true."""
        true = self.hit + self.missed
        return self.hit / true if true else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of both: None where nothing is true and nothing was said."""
        total = 2 * self.hit + self.missed + self.false_alarm
        return 2 * self.hit / total if total else None


@dataclass(frozen=True)
class Score:
    """What one system said of several cases."""

    outcomes: Sequence[Outcome]

    def of(self, label: str) -> Tally:
        return sum((_tally(o, label) for o in self.outcomes), Tally())

    def micro(self) -> Tally:
        """Return the counts of all labels together."""
        return sum((self.of(label) for label in LABELS), Tally())

    def sound_with_false_alarm(self) -> tuple[int, int]:
        """Return how many of the sound runs have a false alarm, and how many sound runs there are."""
        sound = [o for o in self.outcomes if o.case.sound]
        return sum(bool(o.false_alarms) for o in sound), len(sound)

    def exactly_right(self) -> int:
        return sum(o.right for o in self.outcomes)

    def median_delay(self) -> float | None:
        """Return the median over the hits of the steps until noticed: None without hits."""
        return _median(delay for _, delay in self._delays())

    def median_share(self) -> float | None:
        """Return the median over the hits of the steps until noticed, as a share of the run."""
        return _median(delay / outcome.steps for outcome, delay in self._delays())

    def _delays(self) -> list[tuple[Outcome, int]]:
        delays = [(o, o.delay(label)) for o in self.outcomes for label in sorted(o.hits)]
        return [(o, delay) for o, delay in delays if delay is not None]


def first_steps(history: Iterable[tuple[int, Set[str]]], onset: int) -> dict[str, int]:
    """Return for each label the first step from `onset` on at which it stands there.

    `history` holds what stood there after some steps, in order. What stood there just before the onset, before there
    was anything to notice, has not been noticed: it is left out.
    """
    before: Set[str] = frozenset()
    noticed: dict[str, int] = {}
    for step, labels in history:
        if step < onset:
            before = labels
        else:
            for label in labels - before:
                noticed.setdefault(label, step)
    return noticed


def _tally(outcome: Outcome, label: str) -> Tally:
    found = Tally(hit=label in outcome.hits, missed=label in outcome.missed, false_alarm=label in outcome.false_alarms)
    guilty = outcome.case.guilty.get(label, ())
    if not found.hit or not guilty:
        return found
    named = outcome.named(label)
    return found + Tally(
        guilty_groups=len(guilty),
        named_groups=sum(any(_belongs(layer, group) for layer in named) for group in guilty),
        named_layers=len(named),
        right_layers=len(named - outcome.wrongly_named(label)),
    )


def _belongs(layer: str, *groups: LayerGroup) -> bool:
    return any(layer == name or layer.startswith(name + ".") for group in groups for name in group)


def _median(values: Iterable[float]) -> float | None:
    known = list(values)
    return median(known) if known else None
