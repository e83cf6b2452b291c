"""Gradients that vanish, explode or never come."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from gradscope.activations import RECTIFIER, SATURATING
from gradscope.records import TOTAL_NORM, Finding, Layer, Run, Severity
from gradscope.rules.persistence import median, names, persistent, span
from gradscope.rules.prescriptions import clip_value
from gradscope.rules.progress import progress
from gradscope.rules.signal import died_young, exploded, relative_signal, vanished
from gradscope.wording import counted

ALL_DEAD = 0.99
"""Share of dead units from which a rectifier lets nothing through: what stands before it is not cut off by itself."""


def vanishing_gradient(run: Run) -> Iterator[Finding]:
    """Find layers whose error signal is lost on the way back from the loss.

    Condition: in at least half of the records the error signal is under `Thresholds.vanishing_ratio` of the largest
    among the layers nearest the loss (`gradscope.rules.signal`). It is a ratio within one step, so that small gradients
    at a small loss do not count. A product of slopes and weights below 1 shrinks geometrically with depth (Hochreiter
    1991; Bengio, Simard and Frasconi 1994). AutoTrainer (Zhang et al., ICSE 2021) sets the mark at 1e-3. Layers with no
    gradient at all are another disease, unless they stand in front of such a decay: then the gradient has underflowed.
    Of a net whose loss has come down it is a remark.
    """
    signal = relative_signal(run)
    layers = np.flatnonzero(vanished(run, signal))
    if not len(layers):
        return
    typical = median(signal)
    worst = layers[np.argsort(typical[layers], kind="stable")]
    first, last = span(run, signal < run.thresholds.vanishing_ratio, layers)
    bounded = [layer for layer in run.layers if layer.kind == SATURATING]
    yield Finding(
        code="vanishing_gradient",
        severity=_severity(run),
        layers=names(run, worst),
        first_step=first,
        last_step=last,
        message=(
            f"The gradient is lost on the way back: {run.layers[worst[0]].name} gets {typical[worst[0]]:.1e} of the "
            f"error signal near the loss (median over {counted(len(run.steps), 'record')}), "
            f"{counted(len(layers), 'layer')} less than {run.thresholds.vanishing_ratio:g} of it. "
            + _why_it_vanishes(bounded)
        ),
        hint=_against_vanishing(bounded),
        evidence={"median_ratio": float(typical[worst[0]]), "threshold": run.thresholds.vanishing_ratio},
    )


def _why_it_vanishes(bounded: list[Layer]) -> str:
    if not bounded:
        return "Usual cause: weights initialised too small for the depth, so that each layer shrinks the signal."
    kind = bounded[0].type
    depth = len(bounded)
    if kind.lower() == "sigmoid":
        shrunk = f"{counted(depth, 'of them')} alone leave at most {0.25**depth:.1e}" if depth > 1 else "each a quarter"
        return f"Usual cause here: a stack of {kind}, whose slope is at most 0.25 and mostly far less: {shrunk}."
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
    many times its median in the first records. At the start: the run dies of a NaN within the first records, and the
    last gradient before was over as many times as large as the weights, so that no learning rate in use could have
    taken that step. The mirror image of vanishing: a product of factors above 1 (Pascanu, Mikolov and Bengio 2013).
    One cause gives one finding: the first of these that holds. Of a net whose loss has come down it is a remark.
    """
    yield from next(filter(None, (_over_depth(run), _over_training(run), _at_the_start(run))), [])


def no_gradient(run: Run) -> Iterator[Finding]:
    """Find layers that are trainable, belong to an optimizer, and never once got a gradient.

    Condition: in every record all parameters of the layer have a gradient of None or of exactly zero. Frozen layers
    do not count, nor layers in front of a rectifier that is dead altogether, nor such whose gradient vanished.
    """
    missing = run.metric("no_gradient_fraction")
    measured = ~np.isnan(missing)
    never = (measured.sum(axis=0) >= run.thresholds.minimum_records) & ((missing == 1) | ~measured).all(axis=0)
    never &= ~vanished(run, relative_signal(run))
    never[: _last_dead_rectifier(run)] = False
    layers = np.flatnonzero(never)
    if not len(layers):
        return
    first, last = span(run, missing == 1, layers)
    shown = ", ".join(names(run, layers[:3])) + (" and others" if len(layers) > 3 else "")
    yield Finding(
        code="no_gradient",
        severity=Severity.WARNING,
        layers=names(run, layers),
        first_step=first,
        last_step=last,
        message=(
            f"{shown}: trainable and in an optimizer, but never got a gradient in "
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
    layers = np.flatnonzero(exploded(run, signal))
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
    return [_exploding(run, worst, steps, grows, _smaller_weights(run), {"median_ratio": float(typical[worst[0]])})]


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
        f"The gradient norm grew from {usual:.2g} at the start to {norms[peak]:.2g} at step {run.steps[peak]}, most of "
        f"it in {run.layers[worst[0]].name if worst else 'no layer watched'}. Usual cause: the learning rate is too "
        "high, or a few batches are far off."
    )
    cure = f"Lower the learning rate, or clip: {clip_value(run)}."
    steps = int(run.steps[high][0]), int(run.steps[high][-1])
    return [_exploding(run, worst, steps, grew, cure, {"start": usual, "peak": float(norms[peak])})]


def _at_the_start(run: Run) -> list[Finding]:
    norms = run.series(TOTAL_NORM)
    finite = np.flatnonzero(np.isfinite(norms))
    if not len(finite) or not died_young(run):
        return []
    at = int(finite[-1])
    weights = float(np.sqrt(np.nansum(run.metric("weight_norm")[at].astype(np.float64) ** 2)))
    if not norms[at] > run.thresholds.exploding_ratio * weights > 0:
        return []
    huge = (
        f"The gradient norm is {norms[at]:.2g} at step {run.steps[at]}, {norms[at] / weights:.1e} times that of the "
        "weights, and the run does not survive it. Usual cause: weights initialised too large for the depth, or a "
        "recurrent matrix with a spectral radius above 1, applied once for each time step."
    )
    steps = int(run.steps[finite[0]]), int(run.steps[at])
    evidence = {"grad_norm": float(norms[at]), "weight_norm": weights}
    return [_exploding(run, _largest(run, at), steps, huge, _smaller_weights(run), evidence)]


def _exploding(
    run: Run,
    layers: list[int] | npt.NDArray[np.int64],
    steps: tuple[int, int],
    message: str,
    hint: str,
    evidence: dict[str, float],
) -> Finding:
    evidence = {**evidence, "threshold": run.thresholds.exploding_ratio}
    return Finding("exploding_gradient", _severity(run), names(run, layers), *steps, message, hint, evidence)


def _smaller_weights(run: Run) -> str:
    recurrent = [layer for layer in run.layers if layer.kind == "recurrent"]
    first = (
        f"Initialise the recurrent matrix of {recurrent[0].name} with torch.nn.init.orthogonal_"
        if recurrent
        else "Initialise to match the activation (torch.nn.init.kaiming_normal_ for ReLU, xavier_normal_ for Tanh)"
    )
    return f"{first}, or add normalization layers; until then clip: {clip_value(run)}."


def _severity(run: Run) -> Severity:
    return Severity.INFO if progress(run).has_learned else Severity.CRITICAL


def _largest(run: Run, record: int) -> list[int]:
    """The three layers with the largest gradients in a record, the largest first."""
    gradients = np.nan_to_num(run.metric("grad_norm")[record], nan=-1.0, posinf=-1.0)
    return [int(i) for i in np.argsort(-gradients, kind="stable")[:3] if gradients[i] > 0]


def _last_dead_rectifier(run: Run) -> int:
    """The row of the last rectifier that is dead altogether for most of the run, else 0."""
    dead = run.metric("dead_fraction")
    shut = persistent(run, dead >= ALL_DEAD, ~np.isnan(dead))
    return max((int(row) for row in run.rows(RECTIFIER) if shut[row]), default=0)
