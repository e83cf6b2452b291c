"""Numbers that are none."""

from collections.abc import Iterator

import numpy as np

from gradscope.records import NONFINITE_LOSS, SKIPPED, Finding, NonFinite, Run, Severity
from gradscope.rules.persistence import names

ORIGINS = (
    (NonFinite.OUTPUT, "the output", "in the forward pass"),
    (NonFinite.WEIGHT, "a weight", "in a weight, by an earlier step"),
    (NonFinite.GRADIENT, "the gradient", "in the backward pass"),
)
"""Where a NaN may have come from, the earliest in a step first."""


def non_finite(run: Run) -> Iterator[Finding]:
    """Find the first record with a NaN or an infinity in an output, a weight, a gradient or the loss.

    A step that the GradScaler skipped does not count: with fp16 an overflow now and then is how it finds its scale.
    """
    flags = np.nan_to_num(run.metric("nonfinite")).astype(np.int64)
    flags[run.series(SKIPPED) == 1] = 0
    loss = (run.series(NONFINITE_LOSS) == 1) & (run.series(SKIPPED) != 1)
    bad = loss | flags.any(axis=1)
    if not bad.any():
        return
    at = int(np.flatnonzero(bad)[0])
    flag, what, where = next((o for o in ORIGINS if (flags[at] & o[0]).any()), (None, "the loss", "in the loss itself"))
    layers = np.flatnonzero(flags[at] & flag) if flag is not None else np.empty(0, dtype=np.int64)
    # A forward pass infects what comes after, a backward pass what stands before.
    layers = layers[::-1] if flag is NonFinite.GRADIENT else layers
    seen = f"{what} of {run.layers[layers[0]].name}" if len(layers) else what
    yield Finding(
        code="non_finite",
        severity=Severity.CRITICAL,
        layers=names(run, layers),
        first_step=int(run.steps[at]),
        last_step=int(run.steps[bad][-1]),
        message=(
            f"{seen[0].upper()}{seen[1:]} is NaN or infinite at step {run.steps[at]}, seen first {where}"
            f"{', and so is the loss' if loss[at] and len(layers) else ''}. Usual cause: the log, the root or the "
            "quotient of a zero, an overflow in half precision, or a learning rate that is too high."
        ),
        hint=(
            "Clamp what goes into log, sqrt and division (x.clamp_min(1e-12)); lower the learning rate or clip: "
            "Trainer(gradient_clip_val=1.0); to find the operation, Trainer(detect_anomaly=True)."
        ),
        evidence={"step": float(run.steps[at]), "layers": float(len(layers)), "records": float(bad.sum())},
    )
