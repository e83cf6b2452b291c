"""Gradients that vanish, explode or never come."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from gradscope.activations import RECTIFIER, SATURATING
from gradscope.records import TOTAL_NORM, Finding, Run, Severity
from gradscope.rules.persistence import WEIGHT_LAYERS, Mask, median, names, persistent, span
from gradscope.wording import counted

ALL_DEAD = 0.99
"""Share of dead units from which a rectifier lets nothing through: what stands before it is not cut off by itself."""


def vanishing_gradient(run: Run) -> Iterator[Finding]:
    """Find layers whose gradient is lost on the way back from the loss.

    Condition: in at least half of the records the gradient norm is under `Thresholds.vanishing_ratio` of the
    largest among the layers nearest the loss (the last quarter of the weight layers). It is a ratio within one
    step, so that small gradients at a small loss do not count. A product of slopes and weights below 1 shrinks
    geometrically with depth (Hochreiter 1991; Bengio, Simard and Frasconi 1994). AutoTrainer (Zhang et al., ICSE
    2021) sets the mark at 1e-3. Layers with no gradient at all are another disease, unless they stand in front
    of such a decay: then the gradient has underflowed.
    """
    ratio = _relative_norms(run)
    condition = ratio < run.thresholds.vanishing_ratio
    layers = np.flatnonzero(_vanished(run))
    if not len(layers):
        return
    typical = median(ratio)
    worst = layers[np.argsort(typical[layers], kind="stable")]
    first, last = span(run, condition, layers)
    saturating = [layer for layer in run.layers if layer.kind == SATURATING]
    cause = (
        f"Usual cause here: a stack of {saturating[0].type}, whose slope is at most {_steepest(saturating[0].type):g} "
        "and mostly far less, so that each layer shrinks the signal."
        if saturating
        else "Usual cause: weights initialised too small for the depth, so that each layer shrinks the signal."
    )
    yield Finding(
        code="vanishing_gradient",
        severity=Severity.CRITICAL,
        layers=names(run, worst),
        first_step=first,
        last_step=last,
        message=(
            f"The gradient is lost on the way back: {run.layers[worst[0]].name} gets {typical[worst[0]]:.1e} of the "
            f"gradient norm near the loss (median over {counted(len(run.steps), 'record')}), "
            f"{counted(len(layers), 'layer')} less than {run.thresholds.vanishing_ratio:g} of it. {cause}"
        ),
        hint=(
            ("Replace the activations by ReLU, GELU or SELU; else " if saturating else "Use ")
            + "torch.nn.init.kaiming_normal_ or xavier_normal_ to match the activation; else add normalization "
            "layers or residual connections between the layers."
        ),
        evidence={"median_ratio": float(typical[worst[0]]), "threshold": run.thresholds.vanishing_ratio},
    )


def exploding_gradient(run: Run) -> Iterator[Finding]:
    """Find gradients that grow a thousandfold: over depth, or over training.

    Over depth: in at least half of the records the norm of a layer is over `Thresholds.exploding_ratio` times the
    largest among the layers nearest the loss. Over training: the total norm, in two records or more, is over as many
    times its median in the first records. The mirror image of vanishing: a product of factors above 1 (Pascanu,
    Mikolov and Bengio 2013).
    """
    yield from _exploding_over_depth(run)
    yield from _exploding_over_training(run)


def no_gradient(run: Run) -> Iterator[Finding]:
    """Find layers that are trainable, belong to an optimizer, and never once got a gradient.

    Condition: in every record all parameters of the layer have a gradient of None or of exactly zero. Frozen layers
    do not count, nor layers in front of a rectifier that is dead altogether, nor such whose gradient vanished.
    """
    missing = run.metric("no_gradient_fraction")
    measured = ~np.isnan(missing)
    never = (measured.sum(axis=0) >= run.thresholds.minimum_records) & ((missing == 1) | ~measured).all(axis=0)
    never &= ~_vanished(run)
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


def _exploding_over_depth(run: Run) -> Iterator[Finding]:
    ratio = _relative_norms(run)
    condition = ratio > run.thresholds.exploding_ratio
    layers = np.flatnonzero(persistent(run, condition, ~np.isnan(ratio)))
    if not len(layers):
        return
    typical = median(ratio)
    worst = layers[np.argsort(-typical[layers], kind="stable")]
    first, last = span(run, condition, layers)
    yield Finding(
        code="exploding_gradient",
        severity=Severity.CRITICAL,
        layers=names(run, worst),
        first_step=first,
        last_step=last,
        message=(
            f"The gradient grows on the way back: {run.layers[worst[0]].name} gets {typical[worst[0]]:.1e} times the "
            f"gradient norm near the loss (median over {counted(len(run.steps), 'record')}). Usual cause: weights "
            "initialised too large for the depth, or a recurrent matrix with a spectral radius above 1."
        ),
        hint=(
            "Initialise to match the activation (torch.nn.init.kaiming_normal_, orthogonal_), or add normalization "
            "layers; until then clip: Trainer(gradient_clip_val=1.0)."
        ),
        evidence={"median_ratio": float(typical[worst[0]]), "threshold": run.thresholds.exploding_ratio},
    )


def _exploding_over_training(run: Run) -> Iterator[Finding]:
    norms = run.series(TOTAL_NORM)
    finite = np.isfinite(norms)
    start = norms[finite][: 2 * run.thresholds.minimum_records]
    if len(start) < run.thresholds.minimum_records or not np.median(start) > 0:
        return
    usual = float(np.median(start))
    high = finite & (norms > run.thresholds.exploding_ratio * usual)
    if high.sum() < 2:
        return
    peak = int(np.flatnonzero(high)[np.argmax(norms[high])])
    gradients = np.nan_to_num(run.metric("grad_norm")[peak], nan=-1.0, posinf=-1.0)
    worst = [int(i) for i in np.argsort(-gradients, kind="stable")[:3] if gradients[i] > 0]
    yield Finding(
        code="exploding_gradient",
        severity=Severity.CRITICAL,
        layers=names(run, worst),
        first_step=int(run.steps[high][0]),
        last_step=int(run.steps[high][-1]),
        message=(
            f"The gradient norm grew from {usual:.2g} at the start to {norms[peak]:.2g} at step {run.steps[peak]}, "
            f"most of it in {run.layers[worst[0]].name if worst else 'no layer watched'}. Usual cause: the learning "
            "rate is too high, or a few batches are far off."
        ),
        hint=f"Lower the learning rate, or clip: Trainer(gradient_clip_val={_two_digits(10 * usual)}).",
        evidence={"start": usual, "peak": float(norms[peak]), "threshold": run.thresholds.exploding_ratio},
    )


def _relative_norms(run: Run) -> npt.NDArray[np.float64]:
    """Gradient norms of weight layers relative to those nearest the loss: float64[S, L], NaN where undefined."""
    norms = run.metric("grad_norm").astype(np.float64)
    ratio = np.full(norms.shape, np.nan)
    rows = run.rows(*WEIGHT_LAYERS)
    rows = rows[~np.isnan(norms[:, rows]).all(axis=0)]
    if len(rows) < 3:
        return ratio
    nearest = np.where(np.isfinite(norms), norms, 0)[:, rows[-max(1, len(rows) // 4) :]].max(axis=1, initial=0)
    usable = nearest > 0
    ratio[np.ix_(usable, rows)] = norms[np.ix_(usable, rows)] / nearest[usable, None]
    ratio[~np.isfinite(norms)] = np.nan
    return ratio


def _vanished(run: Run) -> Mask:
    """Which layers' gradients have vanished: bool[L]."""
    ratio = _relative_norms(run)
    small: Mask = persistent(run, ratio < run.thresholds.vanishing_ratio, ~np.isnan(ratio))
    decaying: Mask = small & (median(ratio) > 0)
    if not decaying.any():
        return decaying
    in_front = np.arange(len(small)) <= np.flatnonzero(decaying)[-1]
    small &= in_front
    return small


def _last_dead_rectifier(run: Run) -> int:
    """The row of the last rectifier that is dead altogether for most of the run, else 0."""
    dead = run.metric("dead_fraction")
    shut = persistent(run, dead >= ALL_DEAD, ~np.isnan(dead))
    return max((int(row) for row in run.rows(RECTIFIER) if shut[row]), default=0)


def _steepest(type_name: str) -> float:
    return 0.25 if type_name == "Sigmoid" else 1.0


def _two_digits(value: float) -> str:
    return f"{value:.2g}" if 0.01 <= value < 100 else f"{value:.1e}"
