"""Activations that have stopped to pass a gradient."""

from collections.abc import Iterator

import numpy as np

from gradscope.activations import RECTIFIER
from gradscope.records import Finding, Mask, Run, Severity
from gradscope.rules.persistence import WEIGHT_LAYERS, has_lasted, median, names, persistent, span
from gradscope.rules.progress import progress
from gradscope.rules.signal import is_inflated, spoiled
from gradscope.wording import counted

MOSTLY_DEAD = 0.9
"""Share of dead units from which a layer hardly passes anything."""


def dead_relu(run: Run) -> Iterator[Finding]:
    """Find rectifiers many of whose units never fire any more.

    Condition: `dead_fraction` is at least `Thresholds.dead_fraction` in the latest record, which looks back over a
    whole window, and a whole window has been recorded. A record with a NaN or an infinity tells of no unit. Dead is a
    unit that fired for no sample in that window (Lu et al. 2019, "Dying ReLU and Initialization"); sparse activations
    are not dead ones, and units that came back are not dead. Nor is one behind all parameters once the loss has come
    down to next to nothing: that of a hinge is silent when every margin is kept.
    """
    dead = run.metric("dead_fraction")
    measured = ~np.isnan(dead) & ~spoiled(run)[:, None]
    measured[:, [layer.kind != RECTIFIER for layer in run.layers]] = False
    went = progress(run)
    if went.small[-1:].any() and went.has_fallen:
        measured[:, _behind_all_parameters(run)] = False
    condition = measured & (dead >= run.thresholds.dead_fraction)
    layers = np.array(
        [i for i in range(len(run.layers)) if _dead_now(run, condition[measured[:, i], i])], dtype=np.int64
    )
    if not len(layers):
        return
    last_value = {int(i): float(dead[measured[:, i], i][-1]) for i in layers}
    worst = sorted(last_value, key=lambda i: -last_value[i])
    first, last = span(run, condition, layers)
    share = last_value[worst[0]]
    yield Finding(
        code="dead_relu",
        severity=Severity.CRITICAL if share >= MOSTLY_DEAD else Severity.WARNING,
        layers=names(run, worst),
        first_step=first,
        last_step=last,
        message=(
            f"{share:.0%} of the units of {run.layers[worst[0]].name} fire for no sample any more"
            + (f", and those of {counted(len(worst) - 1, 'other layer')}" if len(worst) > 1 else "")
            + ". Usual cause: a step that was too large pushed their biases far below zero, or they were initialised "
            "there; a dead unit has no gradient, so that it cannot come back."
        ),
        hint=(
            "Start again with a lower learning rate, with zero or slightly positive biases, or with an activation "
            "that passes a gradient below zero: LeakyReLU, ELU or GELU."
        ),
        evidence={"dead_fraction": share, "threshold": run.thresholds.dead_fraction},
    )


def saturated_activation(run: Run) -> Iterator[Finding]:
    """Find bounded activations most of whose outputs sit at a limit, where the slope is next to zero.

    Condition: in at least half of the records `saturated_fraction` is at least `Thresholds.saturated_fraction`
    (Glorot and Bengio 2010, section 3), of those in which the loss has not yet come down, and neither has it at last: a
    net that has learned may be sure of itself. It is a remark where it was not so at first and the loss never rose:
    the net went there by itself. The last activation does not count when no weight layer comes after it, for the output
    of a sure classifier saturates and ought to.
    """
    went = progress(run)
    if (went.has_learned and not is_inflated(run)) or not has_lasted(run):
        return
    saturated = run.metric("saturated_fraction")
    hidden = np.arange(len(run.layers)) < max(run.rows(*WEIGHT_LAYERS), default=0)
    measured = ~np.isnan(saturated) & hidden & ~went.learned[:, None]
    condition = measured & (saturated >= run.thresholds.saturated_fraction)
    layers = np.flatnonzero(persistent(run, condition, measured))
    at_first = median(saturated[: 2 * run.thresholds.minimum_records]) >= run.thresholds.saturated_fraction
    if not len(layers):
        return
    typical = median(saturated)
    worst = layers[np.argsort(-typical[layers], kind="stable")]
    first, last = span(run, condition, layers)
    layer = run.layers[worst[0]]
    yield Finding(
        code="saturated_activation",
        severity=Severity.WARNING if at_first[layers].any() or went.got_worse else Severity.INFO,
        layers=names(run, worst),
        first_step=first,
        last_step=last,
        message=(
            f"{typical[worst[0]]:.0%} of the outputs of {layer.name} ({layer.type}) sit within 1 % of a limit "
            f"(median over {counted(int(measured[:, worst[0]].sum()), 'record')}), where the slope is next to zero. "
            "Usual cause: inputs that were not standardised, or weights that are too large."
        ),
        hint=(
            "Standardise the inputs to mean 0 and variance 1; else initialise with torch.nn.init.xavier_normal_; else "
            f"put a normalization layer before {layer.name}, or use an activation without limits."
        ),
        evidence={"saturated_fraction": float(typical[worst[0]]), "threshold": run.thresholds.saturated_fraction},
    )


def _behind_all_parameters(run: Run) -> Mask:
    """Which layers come after the last that has a gradient of its own: bool[L]."""
    owners = np.flatnonzero(~np.isnan(run.metric("grad_norm")).all(axis=0))
    behind: Mask = np.arange(len(run.layers)) > max(owners, default=len(run.layers))
    return behind


def _dead_now(run: Run, dead: Mask) -> bool:
    return len(dead) >= run.thresholds.dead_window and bool(dead[-1])
