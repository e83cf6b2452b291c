"""Steps that are too large, too small, or of another size from layer to layer."""

from collections.abc import Iterator

import numpy as np

from gradscope.records import SKIPPED, Finding, Float64s, Mask, Run, Severity
from gradscope.rules.persistence import (
    WEIGHT_LAYERS,
    has_lasted,
    held,
    longest_streak,
    median,
    names,
    persistent,
    span,
)
from gradscope.rules.prescriptions import learning_rate_factor
from gradscope.rules.progress import WORSE, Progress, gets_nowhere, progress
from gradscope.rules.signal import vanished
from gradscope.wording import counted

EMBEDDING = "embedding"
"""A kind whose weights move at a pace that compares, over a run; in a single step only few of its rows do."""

STREAK = 5
"""Records in a row in which a step overwrites a tenth of a weight before it is a disease. Under Adam a learning rate
that is far too high shows for the first steps only: by then the weights have grown to fit it."""

LASTING = 100
"""Steps after which the loss ought to be down if large steps did no harm."""

WARMING_UP = 2.0
"""How many times the first update ratios the latest may be: beyond that the learning rate is on its way up."""


def update_ratio_high(run: Run) -> Iterator[Finding]:
    """Find weights that each step overwrites.

    Condition: the update ratio ‖Δw‖/‖w‖ of a weight layer reaches `Thresholds.update_ratio_high` and stays above half
    of it, five or more records in a row, and the loss shows it: it was once well above that of the start, for some
    records or in the mean behind such steps, and is not down. What throws a net to where it cannot learn shows in a
    single record at times, for the head soon learns to ignore what is before it. Or it is so in half of the records
    and still in the latest, and the loss is not down. A layer that starts near zero, as a new head or an adapter does,
    takes large steps in relation to its size for a while and does no harm.
    """
    ratio = _ratios(run, *WEIGHT_LAYERS)
    high = run.thresholds.update_ratio_high
    ratio[~np.isfinite(ratio)] = np.nan
    condition = held(ratio >= high, ratio >= high / 2)
    often = longest_streak(condition) >= STREAK
    went = progress(run)
    if went.has_learned:
        return
    if not went.got_worse:
        lasting = persistent(run, condition, ~np.isnan(ratio)) & condition[-STREAK:].all(axis=0)
        often &= _raises_the_loss(run, went, condition) | (lasting & has_lasted(run, LASTING))
    layers = np.flatnonzero(often)
    if not len(layers):
        return
    peak = np.nanmax(ratio[:, layers], axis=0)
    order = np.argsort(-peak, kind="stable")
    worst, largest = layers[order], float(peak[order[0]])
    first, last = span(run, condition, layers)
    yield Finding(
        code="update_ratio_high",
        severity=Severity.WARNING,
        layers=names(run, worst),
        first_step=first,
        last_step=last,
        message=(
            f"Steps overwrite the weights: one changed {run.layers[worst[0]].name} by {largest:.1g} of its size, and "
            f"{counted(len(layers), 'layer')} by {high / 2:g} or more in {STREAK} records in a row. "
            "Usual cause: a learning rate that is too high."
        ),
        hint=(
            f"Multiply the learning rate by {learning_rate_factor(largest)}: usual is a thousandth of the weights a "
            "step; a linear warm-up spares the first steps."
        ),
        evidence={"largest_update_ratio": largest, "threshold": high},
    )


def update_ratio_low(run: Run) -> Iterator[Finding]:
    """Find nets that stand still long before they have learned anything.

    Condition: the median update ratio of a weight layer is at most `Thresholds.update_ratio_low`, over the records in
    which it had a gradient and the optimizer stepped, and the loss has not come down. Not while the learning rate warms
    up: then the latest ratios are larger than the first. Layers whose gradient is lost have another disease.
    """
    ratio, typical = _paces(run)
    low = run.thresholds.update_ratio_low
    layers = np.flatnonzero(typical <= low)
    if not len(layers) or _warms_up(run, ratio[:, layers]) or not gets_nowhere(run):
        return
    worst = layers[np.argsort(typical[layers], kind="stable")]
    first, last = span(run, ratio <= low, layers)
    yield Finding(
        code="update_ratio_low",
        severity=Severity.WARNING,
        layers=names(run, worst),
        first_step=first,
        last_step=last,
        message=(
            f"The net stands still: a typical step moves {run.layers[worst[0]].name} by {typical[worst[0]]:.1e} of its "
            f"size, and {counted(len(layers), 'layer')} by {low:g} or less, and the loss has not come down. "
            "Usual cause: a learning rate that is too low"
            + (", or weights in half precision, which round small steps away." if typical[worst[0]] == 0 else ".")
        ),
        hint=(
            f"Multiply the learning rate by {learning_rate_factor(float(np.median(typical[layers])))}: usual is a "
            "thousandth of the weights a step."
        ),
        evidence={"median_update_ratio": float(typical[worst[0]]), "threshold": low},
    )


def uneven_learning_speed(run: Run) -> Iterator[Finding]:
    """Find layers that learn a thousand times more slowly than others.

    Condition: the median update ratio of a weight layer, over the records in which it had a gradient and the optimizer
    stepped, is the `Thresholds.uneven_ratio`-th part of that of the fastest layer or less, and the loss has not come
    down: a pretrained net whose body barely moves under a new head is meant to do so, and learns. Layers whose gradient
    is lost on the way back have another disease.
    """
    ratio, typical = _paces(run)
    if not (typical > 0).any() or not gets_nowhere(run):
        return
    fastest = int(np.nanargmax(typical))
    layers = np.flatnonzero(typical * run.thresholds.uneven_ratio <= typical[fastest])
    if not len(layers):
        return
    worst = layers[np.argsort(typical[layers], kind="stable")]
    slowest = float(typical[worst[0]])
    first, last = span(run, ~np.isnan(ratio), layers)
    yield Finding(
        code="uneven_learning_speed",
        severity=Severity.WARNING,
        layers=names(run, worst),
        first_step=first,
        last_step=last,
        message=(
            f"{run.layers[worst[0]].name} moves by {slowest:.1e} of its size in a typical step, "
            f"{run.layers[fastest].name} by {typical[fastest]:.1e}: {counted(len(layers), 'layer')} at "
            f"1/{run.thresholds.uneven_ratio:g} of the fastest pace or less. Usual cause: learning rates of parameter "
            "groups that are orders apart."
        ),
        hint=(
            f"Check `lr` of the optimizer's parameter groups: that of {run.layers[worst[0]].name} would need "
            f"{learning_rate_factor(slowest)} times as much for a usual step. If it is not meant to train, say so: "
            "requires_grad_(False)."
        ),
        evidence={"slowest": slowest, "fastest": float(typical[fastest]), "threshold": run.thresholds.uneven_ratio},
    )


def _raises_the_loss(run: Run, went: Progress, condition: Mask) -> Mask:
    """Say of which layers the large steps leave the loss well above the start, in the mean behind them: bool[L].

    That is in the next record, unless a GradScaler skipped it: its loss is infinite for the scale. Not of a layer that
    began at zero, beside which any step is large.
    """
    behind = condition[:-1] & (run.series(SKIPPED)[1:] != 1)[:, None]
    mean = np.where(behind, went.each[1:, None], 0).sum(axis=0) / np.maximum(behind.sum(axis=0), 1)
    from_zero = (run.metric("weight_norm")[:1] == 0).any(axis=0)
    return np.asarray((mean > WORSE) & ~from_zero, dtype=bool)


def _ratios(run: Run, *kinds: str) -> Float64s:
    """Update ratios of layers of `kinds` where they say something: float64[S, L], NaN elsewhere.

    That is in steps that happened, of layers that had a gradient: a head that a batch does not use does not move.
    """
    ratio = run.metric("update_ratio").astype(np.float64)
    ratio[:, [layer.kind not in kinds for layer in run.layers]] = np.nan
    ratio[run.series(SKIPPED) == 1] = np.nan
    ratio[~(run.metric("grad_norm") > 0)] = np.nan
    return ratio


def _paces(run: Run) -> tuple[Float64s, Float64s]:
    """The ratios of layers whose gradient is not lost, float64[S, L], and how each moves typically: float64[L].

    NaN for a layer that has too few of them.
    """
    ratio = _ratios(run, *WEIGHT_LAYERS, EMBEDDING)
    ratio[:, vanished(run)] = np.nan
    enough = (~np.isnan(ratio)).sum(axis=0) >= run.thresholds.minimum_records
    return ratio, np.where(enough, median(ratio), np.nan)


def _warms_up(run: Run, ratio: Float64s) -> bool:
    """Say whether the latest ratios are well above the first."""
    count = run.thresholds.minimum_records
    pace = np.array([np.nanmedian(row) for row in ratio if not np.isnan(row).all()])
    return bool(np.median(pace[-count:]) > WARMING_UP * np.median(pace[:count]))
