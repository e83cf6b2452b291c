"""Gradients that vanish, explode or never come."""

from collections.abc import Iterator

import numpy as np

from gradscope.activations import RECTIFIER, SATURATING
from gradscope.records import TOTAL_NORM, Finding, Layer, Mask, Run, Severity
from gradscope.rules.persistence import median, names, persistent, span
from gradscope.rules.prescriptions import clip_at, clip_value
from gradscope.rules.progress import progress
from gradscope.rules.signal import DISTANCE, died_young, exploded, is_inflated, relative_signal, vanished, weights_norm
from gradscope.wording import counted, listed

CHANGE = 1e-6
"""Relative change of a norm that is more than rounding."""

ALL_DEAD = 0.99
"""Share of dead units from which a rectifier lets nothing through: what stands before it is not cut off by itself."""


def vanishing_gradient(run: Run) -> Iterator[Finding]:
    """Find layers whose error signal is lost on the way back from the loss.

    Condition: in at least half of the records and in the latest the error signal is under
    `Thresholds.vanishing_ratio` of the largest among the layers nearest the loss (`gradscope.rules.signal`). It is a
    ratio within one step, so that small gradients at a small loss do not count. A product of slopes and weights below 1
    shrinks geometrically with depth (Hochreiter 1991; Bengio, Simard and Frasconi 1994). AutoTrainer (Zhang et al.,
    ICSE 2021) sets the mark at 1e-3. Layers with no gradient at all are another disease, unless they stand in front of
    such a decay: then the gradient has underflowed. It is a remark of a net whose loss has come down, and where the
    signal was sound at first: what has happened to it since is the disease then. A loss that is small from the start is
    none that has come down: a net that is resumed after it has learned has a signal in all of its layers, while targets
    of a small scale make a small loss of a net that learns nothing.
    """
    signal = relative_signal(run)
    layers = np.flatnonzero(vanished(run))
    if not len(layers):
        return
    typical = median(signal)
    worst = layers[np.argsort(typical[layers], kind="stable")]
    first, last = span(run, signal < run.thresholds.vanishing_ratio, layers)
    bounded = [layer for layer in run.layers if layer.kind == SATURATING]
    at_first = median(signal[: run.thresholds.minimum_records])[layers]
    from_start = bool((at_first < DISTANCE * run.thresholds.vanishing_ratio).any())
    yield Finding(
        code="vanishing_gradient",
        severity=_severity(run, progress(run).has_fallen) if from_start else Severity.INFO,
        layers=names(run, worst),
        first_step=first,
        last_step=last,
        message=(
            f"The gradient is lost on the way back: {run.layers[worst[0]].name} gets {typical[worst[0]]:.1e} of the "
            f"error signal near the loss (median over {counted(len(run.steps), 'record')}), "
            f"{counted(len(layers), 'layer')} about {run.thresholds.vanishing_ratio:g} of it or less. "
            + (_why_it_vanishes(bounded) if from_start else NOT_AT_FIRST)
        ),
        hint=_against_vanishing(bounded),
        evidence={"median_ratio": float(typical[worst[0]]), "threshold": run.thresholds.vanishing_ratio},
    )


NOT_AT_FIRST = "It was not so at first: something has happened to the net since, steps that were too large, say."


def _why_it_vanishes(bounded: list[Layer]) -> str:
    if not bounded:
        return "Usual cause: weights initialised too small for the depth, so that each layer shrinks the signal."
    kind = bounded[0].type
    depth = len(bounded)
    if kind.lower() == "sigmoid":
        return (
            f"Usual cause here: a stack of {kind}, whose slope is at most 0.25 and mostly far less: {depth} of them "
            f"leave at most {0.25**depth:.1e}, but for what the weights add."
        )
    return f"Usual cause here: a stack of {kind}, whose slope is at most 1 and, where it saturates, next to none."


def _against_vanishing(bounded: list[Layer]) -> str:
    if bounded:
        return (
            f"Replace {bounded[0].type} by ReLU, GELU or SELU, whose slope is about 1 for half of the inputs; else "
            "torch.nn.init.xavier_normal_ (Tanh: gain=5/3); else put normalization layers or residual connections "
            "between the layers."
        )
    return (
        "Initialise to match the activation: torch.nn.init.kaiming_normal_(weight, nonlinearity='relu') for ReLU, "
        "xavier_normal_ for Tanh; else add normalization layers or residual connections between the layers."
    )


def exploding_gradient(run: Run) -> Iterator[Finding]:
    """Find gradients that grow a thousandfold: over depth, over training, or that end a run before it has begun.

    Over depth: in at least half of the records the error signal at a layer is over `Thresholds.exploding_ratio` times
    the largest among the layers nearest the loss. Over training: the total norm, in two records or more, is over as
    many times its median in the first records; or it is so within the steps that the flight recorder kept. At the
    start: the gradient is over as many times as large as the weights, so that no learning rate in use could take such a
    step, and the run dies of a NaN within the first records, or a change of the weights by a percent changes the loss
    by as much as it is (`is_inflated`), which a loss that is merely large does not do.

    The mirror image of vanishing: a product of factors above 1 (Pascanu, Mikolov and Bengio 2013). One cause gives one
    finding: the first of these that holds. Of a net whose loss has come down it is a remark.
    """
    yield from next(filter(None, (_over_depth(run), _over_training(run), _in_flight(run), _at_the_start(run))), [])


def no_gradient(run: Run) -> Iterator[Finding]:
    """Find layers that are trainable, belong to an optimizer, and never once got a gradient.

    Condition: in every record all parameters of the layer have a gradient of None or of exactly zero. Frozen layers
    do not count, nor layers in front of a rectifier that is dead altogether, nor such whose gradient vanished, nor
    such whose weights change between records: those are used in steps that were not recorded.
    """
    missing = run.metric("no_gradient_fraction")
    measured = ~np.isnan(missing)
    never = (measured.sum(axis=0) >= run.thresholds.minimum_records) & ((missing == 1) | ~measured).all(axis=0)
    never &= ~vanished(run) & ~_moves_unseen(run)
    never[: _last_dead_rectifier(run)] = False
    layers = np.flatnonzero(never)
    if not len(layers):
        return
    first, last = span(run, missing == 1, layers)
    yield Finding(
        code="no_gradient",
        severity=Severity.WARNING,
        layers=names(run, layers),
        first_step=first,
        last_step=last,
        message=(
            f"{listed(names(run, layers))}: trainable and in an optimizer, but never got a gradient in "
            f"{counted(int(measured[:, layers[0]].sum()), 'record')}. Usual cause: it is not used in the forward, or "
            "a detach(), a no_grad() block or an argmax stands between it and the loss."
        ),
        hint=(
            "Use its output in the loss, or take the detach() out. If it is not meant to train, say so: "
            "requires_grad_(False)."
        ),
        evidence={"layers": float(len(layers)), "records": float(measured[:, layers[0]].sum())},
    )


def _over_depth(run: Run) -> list[Finding]:
    signal = relative_signal(run)
    layers = np.flatnonzero(exploded(run))
    if not len(layers):
        return []
    typical = median(signal)
    worst = layers[np.argsort(-typical[layers], kind="stable")]
    grows = (
        f"The gradient grows on the way back: {run.layers[worst[0]].name} gets {typical[worst[0]]:.1e} times the error "
        f"signal near the loss (median over {counted(len(run.steps), 'record')}). Usual cause: weights initialised too "
        "large for the depth, or a recurrent matrix with a spectral radius above 1."
    )
    steps = span(run, signal > run.thresholds.exploding_ratio, layers)
    return [
        _exploding(
            run, names(run, worst), steps, grows, _smaller_weights(run), {"median_ratio": float(typical[worst[0]])}
        )
    ]


def _over_training(run: Run) -> list[Finding]:
    norms = run.series(TOTAL_NORM)
    finite = np.isfinite(norms)
    start = norms[finite][: 2 * run.thresholds.minimum_records]
    if len(start) < run.thresholds.minimum_records or not np.median(start) > 0:
        return []
    usual = float(np.median(start))
    high = finite & (norms > run.thresholds.exploding_ratio * usual)
    if high.sum() < 2:
        return []
    peak = int(np.flatnonzero(high)[np.argmax(norms[high])])
    worst = _largest(run, peak)
    grew = (
        f"The gradient norm grew from {usual:.2g} at the start to {norms[peak]:.2g} at step {run.steps[peak]}, the "
        f"largest part in {run.layers[worst[0]].name if worst else 'no layer watched'}. Usual cause: the learning rate "
        "is too high, or a few batches are far off."
    )
    cure = f"Lower the learning rate, or clip: {clip_value(run)}."
    steps = int(run.steps[high][0]), int(run.steps[high][-1])
    return [_exploding(run, names(run, worst), steps, grew, cure, {"start": usual, "peak": float(norms[peak])})]


def _in_flight(run: Run) -> list[Finding]:
    """What happened between two records, where the steps before a disaster were kept."""
    for flight in run.flights.values():
        norms = np.sqrt(np.nansum(flight.grad_norm.astype(np.float64) ** 2, axis=1))
        steps, norms = flight.steps[np.isfinite(norms) & (norms > 0)], norms[np.isfinite(norms) & (norms > 0)]
        if len(norms) < 2 * run.thresholds.minimum_records:
            continue
        usual, peak = float(np.median(norms[: len(norms) // 2])), int(np.argmax(norms))
        if norms[peak] > run.thresholds.exploding_ratio * usual:
            high = steps[norms > run.thresholds.exploding_ratio * usual]
            row = int(np.argmax(np.nan_to_num(flight.grad_norm[flight.steps == steps[peak]][0], posinf=0)))
            grew = (
                f"The gradient norm grew from {usual:.2g} to {norms[peak]:.2g} at step {steps[peak]}, within the "
                f"{counted(len(flight.steps), 'step')} that were kept, the largest part in {flight.layers[row]}. Usual "
                "cause: the learning rate is too high, or a few batches are far off."
            )
            cure = f"Lower the learning rate, or clip: {clip_value(run)}."
            evidence = {"start": usual, "peak": float(norms[peak])}
            return [_exploding(run, (flight.layers[row],), (int(high[0]), int(high[-1])), grew, cure, evidence)]
    return []


def _at_the_start(run: Run) -> list[Finding]:
    dies = died_young(run)
    finite = np.flatnonzero(np.isfinite(run.series(TOTAL_NORM)))
    if not len(finite):
        return []
    at = int(finite[-1 if dies else 0])
    norm, weights = float(run.series(TOTAL_NORM)[at]), weights_norm(run, at)
    if not norm > run.thresholds.exploding_ratio * weights > 0 or not (dies or is_inflated(run)):
        return []
    survives = "and the run does not survive it" if dies else "and a percent of them can double the loss"
    huge = (
        f"The gradient norm is {norm:.2g} at step {run.steps[at]}, {norm / weights:.1e} times that of "
        f"the weights, {survives}. Usual cause: weights initialised too large for the depth, or a recurrent matrix "
        "with a spectral radius above 1, applied once for each time step."
    )
    steps = int(run.steps[finite[0]]), int(run.steps[at])
    evidence = {"grad_norm": norm, "weight_norm": weights}
    return [_exploding(run, names(run, _largest(run, at)), steps, huge, _smaller_weights(run), evidence)]


def _exploding(
    run: Run,
    layers: tuple[str, ...],
    steps: tuple[int, int],
    message: str,
    hint: str,
    evidence: dict[str, float],
) -> Finding:
    evidence = {**evidence, "threshold": run.thresholds.exploding_ratio}
    return Finding(
        "exploding_gradient", _severity(run, progress(run).has_learned), layers, *steps, message, hint, evidence
    )


def _smaller_weights(run: Run) -> str:
    recurrent = [layer for layer in run.layers if layer.kind == "recurrent"]
    first = (
        f"Initialise the recurrent matrix of {recurrent[0].name} with torch.nn.init.orthogonal_"
        if recurrent
        else "Initialise to match the activation (torch.nn.init.kaiming_normal_ for ReLU, xavier_normal_ for Tanh)"
    )
    return f"{first}, or add normalization layers; until then clip: {clip_at(run, 1.0)}."


def _severity(run: Run, learned: bool) -> Severity:
    return Severity.INFO if learned and not is_inflated(run) else Severity.CRITICAL


def _largest(run: Run, record: int) -> list[int]:
    """The layers at which the signal has exploded in a record, else the three largest gradients: the largest first."""
    signal = np.nan_to_num(relative_signal(run)[record], nan=0.0)
    if (signal > run.thresholds.exploding_ratio).any():
        return [int(i) for i in np.argsort(-signal, kind="stable") if signal[i] > run.thresholds.exploding_ratio]
    gradients = np.nan_to_num(run.metric("grad_norm")[record], nan=-1.0, posinf=-1.0)
    return [int(i) for i in np.argsort(-gradients, kind="stable")[:3] if gradients[i] > 0]


def _moves_unseen(run: Run) -> Mask:
    """Which layers' weights changed between two records, though no recorded step moved them: bool[L]."""
    norms, ratio = run.metric("weight_norm").astype(np.float64), run.metric("update_ratio")
    changed = np.abs(norms[1:] - norms[:-1]) > CHANGE * norms[:-1]
    return np.asarray(changed.any(axis=0) & ~(ratio > 0).any(axis=0), dtype=bool)


def _last_dead_rectifier(run: Run) -> int:
    """The row of the last rectifier that is dead altogether for most of the run, else 0."""
    dead = run.metric("dead_fraction")
    shut = persistent(run, dead >= ALL_DEAD, ~np.isnan(dead))
    return max((int(row) for row in run.rows(RECTIFIER) if shut[row]), default=0)
