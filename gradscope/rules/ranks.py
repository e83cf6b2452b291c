"""Ranks that are unlike the others."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from gradscope.records import Finding, RankOutlier, Run, Severity

WORST_FIRST = ("dead_fraction", "saturated_fraction", "zero_fraction", "act_mean", "act_var")
"""Metrics by what a difference in them says."""


def rank_outlier(run: Run) -> Iterator[Finding]:
    """Find ranks whose activations are unlike those of the others: `Run.rank_outliers`.

    In data-parallel training all ranks hold the same weights, and samples that are dealt out at random give the same
    statistics but for chance. What differs for long is what a rank is given.
    """
    outliers = [o for o in _rare(run) if np.isfinite(run.metric(o.metric)).any()]
    if not outliers or len(run.steps) < run.thresholds.minimum_records:
        return
    worst = min(outliers, key=_how_bad)
    ranks = sorted({o.rank for o in outliers})
    pair = len(ranks) == 2 and run.coverage.measured.get("ranks") == 2
    own = [o for o in outliers if pair or o.rank == worst.rank]
    layers = dict.fromkeys(o.layer for o in sorted(own, key=lambda o: o is not worst))
    yield Finding(
        code="rank_outlier",
        severity=Severity.WARNING,
        layers=tuple(layers),
        first_step=min(o.first_step for o in outliers),
        last_step=max(o.last_step for o in outliers),
        message=(
            f"{_who(worst, ranks, pair)}: {run.column(worst.metric).title} of {worst.layer}, "
            f"{_number(worst.value, worst.metric)} on rank {worst.rank} and {_number(worst.others, worst.metric)} on "
            f"{_others(worst, pair)}. All ranks hold the same weights. Usual cause: one rank is given other data."
        ),
        hint=(
            f"Look at a batch of {'each' if pair else f'rank {worst.rank}'}: its shard of the data, its transforms, "
            "its share of the labels. Lightning's Trainer(use_distributed_sampler=True) with DataLoader(shuffle=True) "
            "deals samples out evenly."
        ),
        evidence={
            "rank": float(worst.rank),
            "value": worst.value,
            "others": worst.others,
            "ranks": float(len(ranks)),
        },
    )


def _rare(run: Run) -> list[RankOutlier]:
    """Return the outliers without those that most ranks are, in the same direction: that is none.

    A rank sees fewer samples than all the others together. Where units fire for few of them, more are dead on each.
    """
    ranks = run.coverage.measured.get("ranks", 0)
    sides = {(o.rank, o.metric, o.value > o.others) for o in run.rank_outliers}
    alike = Counter((metric, above) for _, metric, above in sides)
    return [o for o in run.rank_outliers if ranks <= 2 or 2 * alike[o.metric, o.value > o.others] <= ranks]


def _how_bad(outlier: RankOutlier) -> tuple[int, float]:
    place = WORST_FIRST.index(outlier.metric) if outlier.metric in WORST_FIRST else len(WORST_FIRST)
    return place, -abs(outlier.value - outlier.others)


def _who(worst: RankOutlier, ranks: Sequence[int], pair: bool) -> str:
    if pair:
        return "The two ranks see different things"
    more = f", and so do {len(ranks) - 1} more" if len(ranks) > 1 else ""
    return f"Rank {worst.rank} stands out{more}"


def _others(worst: RankOutlier, pair: bool) -> str:
    return f"rank {1 - worst.rank}" if pair else "the others"


def _number(value: float, metric: str) -> str:
    return f"{value:.0%}" if metric.endswith("fraction") else f"{value:.2g}"
