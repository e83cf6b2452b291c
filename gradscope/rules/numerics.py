"""Numbers that are none."""

import re
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from gradscope.records import NONFINITE_LOSS, SKIPPED, Finding, Mask, NonFinite, Origin, Run, Severity
from gradscope.rules.persistence import names

SEEN_IN = (
    (NonFinite.OUTPUT, "the output", "in the forward pass"),
    (NonFinite.WEIGHT, "a weight", "in a weight, {since}"),
    (NonFinite.GRADIENT, "the gradient", "in the backward pass"),
)
"""Where a NaN may have been seen, the earliest in a step first."""

BORN = {
    "forward": "in the forward of {}",
    "backward": "in the backward of {} or of what its output goes into",
    "weight": "in a weight of {}, {since}",
    "batch": "in the batch itself",
}

CAUSE = (
    "the log, the root or the quotient of a zero, an overflow in half precision, or a learning rate that is too high"
)

CURE = (
    "Clamp what goes into log, sqrt and division (x.clamp_min(1e-12)); lower the learning rate or clip: "
    "Trainer(gradient_clip_val=1.0)."
)

CURES = {
    "log": "Clamp what goes into the logarithm: x.clamp_min(1e-12).log(); of a softmax take F.log_softmax instead.",
    "sqrt": "The slope of a root at zero is infinite: (x + 1e-12).sqrt().",
    "rsqrt": "Keep what goes into the root away from zero: (x + 1e-12).rsqrt().",
    "norm": "The slope of a norm at zero is none: (x.square().sum(-1) + 1e-12).sqrt().",
    "linalgvectornorm": "The slope of a norm at zero is none: (x.square().sum(-1) + 1e-12).sqrt().",
    "pow": "A power below 1 has an infinite slope at zero, and a large one overflows: clamp what goes into it.",
    "div": "Keep the divisor away from zero: x / y.clamp_min(1e-12), or y + 1e-12.",
    "exp": "An exponential overflows above 88, in half precision above 11: clamp what goes into it.",
    "softmax": "Of a row that is masked altogether nothing is left: mask with a large negative number, not with -inf.",
}
"""What to do about an operation, by the name that autograd knows it by."""

CAUSE_AT_START = "an initialisation that divides by zero, torch.empty that nobody filled, or a damaged checkpoint"
CURE_AT_START = (
    "Look at what fills this weight before the training: its initialisation, or the checkpoint it is loaded from."
)


def non_finite(run: Run) -> Iterator[Finding]:
    """Find the first NaN or infinity in an output, a weight, a gradient or the loss: where it was born, if it is known.

    That is `Run.origin`; else the first record that holds one tells where it was seen. A step that the GradScaler
    skipped does not count: with fp16 an overflow now and then is how it finds its scale.
    """
    flags = np.nan_to_num(run.metric("nonfinite"), posinf=0, neginf=0).astype(np.int64)
    flags[run.series(SKIPPED) == 1] = 0
    loss = (run.series(NONFINITE_LOSS) == 1) & (run.series(SKIPPED) != 1)
    bad = loss | flags.any(axis=1)
    steps = run.steps[bad].tolist()
    if run.origin is not None and (not steps or run.origin.step <= steps[0]):
        yield _born(run, run.origin, steps)
    elif steps:
        yield _seen(run, flags, loss, bad)


def _born(run: Run, origin: Origin, steps: list[int]) -> Finding:
    from_start = origin.direction == "weight" and _is_first(run, origin.step)
    module = origin.module or "the training step, outside of any module"
    where = BORN.get(origin.direction, "in {}").format(module, since=_since(run, origin.step))
    where += f" on rank {origin.rank}" if origin.rank is not None else ""
    by = f", by the operation {origin.operation}" if origin.operation else ""
    return _finding(
        (origin.module,) if origin.module else (),
        origin.step,
        max([origin.step, *steps]),
        f"The first NaN or infinity was born at step {origin.step} {where}{by}.",
        {"step": float(origin.step), "records": float(len(steps))},
        CURE_AT_START if from_start else CURES.get(re.sub(r"backward\d*$", "", origin.operation.lower()), CURE),
        CAUSE_AT_START if from_start else CAUSE,
    )


def _is_first(run: Run, step: int) -> bool:
    """Say whether `run` begins with `step`: above zero where its weights come from a checkpoint of another."""
    return step == (run.steps[0] if len(run.steps) else 0)


def _since(run: Run, step: int) -> str:
    """How a weight that is bad before `step` came to be so."""
    return "before the first step or in it" if _is_first(run, step) else "by an earlier step"


def _seen(run: Run, flags: npt.NDArray[np.int64], loss: Mask, bad: Mask) -> Finding:
    at = int(np.flatnonzero(bad)[0])
    flag, what, where = next((s for s in SEEN_IN if (flags[at] & s[0]).any()), (None, "the loss", "in the loss itself"))
    layers = np.flatnonzero(flags[at] & flag) if flag is not None else np.empty(0, dtype=np.int64)
    # A forward pass infects what comes after, a backward pass what stands before.
    layers = layers[::-1] if flag is NonFinite.GRADIENT else layers
    from_start = flag is NonFinite.WEIGHT and not at
    where = where.format(since=_since(run, int(run.steps[at])))
    seen = f"{what} of {run.layers[layers[0]].name}" if len(layers) else what
    return _finding(
        names(run, layers),
        int(run.steps[at]),
        int(run.steps[bad][-1]),
        f"{seen[0].upper()}{seen[1:]} is NaN or infinite at step {run.steps[at]}, seen first {where}"
        f"{', and so is the loss' if loss[at] and len(layers) else ''}.",
        {"step": float(run.steps[at]), "layers": float(len(layers)), "records": float(bad.sum())},
        CURE_AT_START if from_start else f"{CURE} To find the operation: Trainer(detect_anomaly=True).",
        CAUSE_AT_START if from_start else CAUSE,
    )


def _finding(
    layers: tuple[str, ...], first: int, last: int, what: str, evidence: dict[str, float], hint: str, cause: str
) -> Finding:
    return Finding(
        code="non_finite",
        severity=Severity.CRITICAL,
        layers=layers,
        first_step=first,
        last_step=last,
        message=f"{what} Usual cause: {cause}.",
        hint=hint,
        evidence=evidence,
    )
