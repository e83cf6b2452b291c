"""Runs as experiments: each with its findings, its key numbers, its own scalars and its settings."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from gradscope.compare.comparison import Comparison
from gradscope.compare.hparams import Hparams, differing
from gradscope.compare.key_numbers import KeyNumbers, key_numbers
from gradscope.records import Finding, Run
from gradscope.summary import verdict, worst_severity

if TYPE_CHECKING:
    from gradscope.compare.scalars import Curve


@dataclass(frozen=True)
class Experiment:
    """A run and what is known about it."""

    run: Run
    findings: Sequence[Finding]
    curves: "Mapping[str, Curve]" = field(default_factory=dict)
    """By tag, the accuracies and losses that the training logged itself."""
    hparams: Hparams = field(default_factory=Hparams)

    @property
    def name(self) -> str:
        """The name of the run."""
        return self.run.name

    @property
    def numbers(self) -> KeyNumbers:
        """The run in a few numbers."""
        return key_numbers(self.run)


def settings_that_differ(experiments: Sequence[Experiment]) -> tuple[str, ...]:
    """Return the names of settings that are not the same in all experiments whose settings could be read."""
    return differing([e.hparams.settings for e in experiments if not e.hparams.note])


def as_json(
    experiments: Sequence[Experiment], baseline: str | None = None, comparisons: Sequence[Comparison] = ()
) -> dict[str, Any]:
    """Return what ``gradscope compare --json`` prints: an infinity becomes ``"inf"`` or ``"-inf"``, a NaN null."""
    return {
        "runs": [_experiment(experiment) for experiment in experiments],
        "hparams_that_differ": list(settings_that_differ(experiments)),
        "baseline": baseline,
        "comparisons": [_numbers(asdict(comparison)) for comparison in comparisons],
    }


def _experiment(experiment: Experiment) -> dict[str, Any]:
    worst = worst_severity(experiment.findings)
    return {
        "name": experiment.name,
        "verdict": verdict(experiment.run, experiment.findings),
        "severity": str(worst) if worst is not None else None,
        "findings": [
            {"code": f.code, "severity": str(f.severity), "layers": list(f.layers)} for f in experiment.findings
        ],
        **_numbers(asdict(experiment.numbers)),
        "scalars": {tag: _numbers(curve._asdict()) for tag, curve in experiment.curves.items()},
        "hparams": dict(experiment.hparams.settings),
        "notes": [*experiment.run.notes, *filter(None, [experiment.hparams.note])],
    }


def _numbers(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
