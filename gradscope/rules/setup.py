"""What is wrong with a model or a Trainer before the first step: judged by `Run.setup`, not by any record."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from gradscope.records import Finding, InitialWeights, OutputActivation, Run, Setup, Severity
from gradscope.wording import counted, listed

GROSS = 1.25**2
"""The factor on τ from which weights cannot carry a SELU net: the standard deviation is off by a quarter.

With weights of mean zero a layer maps a second moment m to the mean and variance of selu(z), z ~ N(0, τ m) (Klambauer
et al. 2017, equations 4 and 5 with ω = 0, integrated numerically from mean 0 and variance 1):

    τ      variance after 1, 2, 4, 8 and 16 layers    fixed point: mean, variance
    1/3    0.42  0.20  0.06  0.01  0.00               0, 0: torch's own initialisation of Linear
    0.64   0.70  0.53  0.35  0.22  0.15               −0.05, 0.13
    0.95   0.96  0.93  0.89  0.85  0.83               −0.02, 0.83
    1.10   1.08  1.14  1.24  1.34  1.40               0.05, 1.41
    1.56   1.41  1.85  2.72  4.18  5.86               0.75, 7.02
    2      1.71  2.62  4.90  11.4  34.8               none: kaiming_normal_ for ReLU

The τ of the paper, from 0.95 to 1.1, keeps the stated variance of [0.8, 1.5] at any depth. From 1.25² on, either way,
two layers leave it, and four are twice as far out as its bounds (in log variance).
"""

STANDARD_ERRORS = 4
"""Standard errors beyond which a draw of weights is not a matter of chance: once in 16,000 layers."""

FAR_INPUT = 4.0
"""The factor on the second moment of the inputs, 1 after standardising, from which they are far off. By the same map
with τ = 1, layers of correct weights need six steps to bring the variance back from 4 to within the stated bounds, and
eight from 1/4."""


class Cause(NamedTuple):
    """One condition that is not met: where, how far, what to do."""

    severity: Severity
    layers: tuple[str, ...]
    message: str
    hint: str
    evidence: dict[str, float]


def selu_misconfigured(run: Run) -> Iterator[Finding]:
    """Find SELU nets that do not meet the conditions under which SELU normalises itself.

    These are weights with ω = 0 and τ = 1, a dropout that keeps mean and variance, and standardised inputs (Klambauer
    et al. 2017, theorem 1 and section "New Dropout Technique"). Conditions: τ of a layer outside
    `Thresholds.selu_tau` or ω outside `Thresholds.selu_omega`, each by more than a draw of weights explains; a plain
    Dropout right behind a SELU, which multiplies the second moment by 1 / (1 − p) as τ does; inputs of the first layer
    with more mean than spread, or with a second moment off by `FAR_INPUT`. A warning, but for weights whose τ is off by
    less than `GROSS`, or whose |ω| is below 1, from where on a mean shrinks no longer (the mean slope of SELU at its
    fixed point is 0.99), for inputs, which `selu_drift` tells of where they do harm, and for a SELU right behind batch
    normalization, which is of no use rather than of harm.
    """
    causes = [*selu_weights(run), *_dropouts(run.setup), *_input(run.setup), *_normalized(run.setup)]
    if not causes:
        return
    causes.sort(key=lambda cause: -cause.severity)
    yield _finding(
        run,
        "selu_misconfigured",
        tuple(dict.fromkeys(layer for cause in causes for layer in cause.layers)),
        "Not set up as SELU needs it: " + "; ".join(cause.message for cause in causes) + ".",
        "; ".join(cause.hint for cause in causes) + ".",
        {name: number for cause in causes for name, number in cause.evidence.items()},
        causes[0].severity,
    )


def saturating_stack(run: Run) -> Iterator[Finding]:
    """Find a chain of bounded activations that is too deep for a gradient, by its weights and its steepest slopes.

    Condition: `SaturatingStack.gradient_gain` is under `Thresholds.vanishing_ratio`. The slope of a sigmoid is at most
    1/4, so that with weights of τ = 1 it takes five (4⁻⁵ is just below 1e-3), with torch's own initialisation of Linear
    (τ = 1/3) four of them; the slope of tanh is at most 1, which leaves it to the weights: 13 layers of τ = 1/3.
    """
    stack = run.setup.saturating_stack
    if stack is None or not stack.gradient_gain < run.thresholds.vanishing_ratio:
        return
    yield _finding(
        run,
        "vanishing_gradient",
        stack.layers,
        f"{counted(len(stack.layers), 'bounded activation')} in a row without normalization, {stack.layers[0]} to "
        f"{stack.layers[-1]}: with the weights that they begin with, at most {stack.gradient_gain:.1e} of the gradient "
        "is left where it comes out.",
        "Replace the activations by ReLU, GELU or SELU; else add normalization layers or residual connections between "
        "the layers.",
        {"gradient_gain": stack.gradient_gain, "threshold": run.thresholds.vanishing_ratio},
    )


def output_activation(run: Run) -> Iterator[Finding]:
    """Find a cross-entropy whose logits come out of an activation, which takes from them what they need.

    A ReLU leaves no logit below zero, and no gradient where all are zero. Behind a softmax or sigmoid they lie in
    [0, 1]: of K classes no probability exceeds e / (e + K − 1), and the gradient has two slopes to pass for none.
    """
    output = run.setup.output_activation
    if output is None:
        return
    rectifier = output.type.lower() == "relu"
    yield _finding(
        run,
        "dead_relu" if rectifier else "vanishing_gradient",
        (output.layer,),
        f"The cross-entropy is given the output of {output.layer} ({output.type}). "
        + (
            "No logit can go below zero, and where all of them are zero there is no gradient."
            if rectifier
            else _flattened(output)
        ),
        f"Take {output.layer} out of the training: cross-entropy wants logits as the last layer gives them, and "
        "applies its own softmax or sigmoid.",
        {"classes": float(output.classes)},
    )


def in_no_optimizer(run: Run) -> Iterator[Finding]:
    """Find layers with a gradient that no optimizer uses: left out by mistake, or frozen at its full cost."""
    layers = run.setup.in_no_optimizer
    if not layers:
        return
    yield _finding(
        run,
        "no_gradient",
        layers,
        f"{listed(layers)}: trainable parameters there are part of the loss, but in no optimizer, so that the "
        "gradient is computed and never used.",
        "If it is to learn, give its parameters to the optimizer; if not, say so, which saves time and memory: "
        "requires_grad_(False).",
        {"layers": float(len(layers))},
    )


def never_called(run: Run) -> Iterator[Finding]:
    """Find trainable layers with no part in the first forward, and without a gradient in any record since."""
    rows = {layer.name: i for i, layer in enumerate(run.layers)}
    missing = run.metric("no_gradient_fraction")
    layers = tuple(
        name
        for name in run.setup.never_called
        if name in rows and bool((missing[:, rows[name]] == 1).any()) and not bool((missing[:, rows[name]] < 1).any())
    )
    if not layers:
        return
    yield _finding(
        run,
        "no_gradient",
        layers,
        f"{listed(layers)}: trainable, but not called in the first forward, and without a gradient since.",
        "Call it in the forward or take it out of the model. If it is not meant to train, say so: "
        "requires_grad_(False).",
        {"layers": float(len(layers))},
    )


def _finding(
    run: Run,
    code: str,
    layers: tuple[str, ...],
    message: str,
    hint: str,
    evidence: dict[str, float],
    severity: Severity = Severity.INFO,
) -> Finding:
    step = int(run.steps[0]) if len(run.steps) else 0
    return Finding(code, severity, layers, step, step, message, hint, evidence)


def selu_weights(run: Run) -> Iterator[Cause]:
    """Yield what is wrong with the weights before SELUs: the layers whose τ or ω is off, the worst first."""
    layers = [w for w in run.setup.selu_weights if w.tau > 0 and math.isfinite(w.tau)]
    low, high = run.thresholds.selu_tau
    off = [w for w in layers if not low <= w.tau <= high and abs(_tau_score(w)) > STANDARD_ERRORS]
    if off:
        off.sort(key=lambda w: (-_distance(w.tau), -abs(_tau_score(w))))
        yield Cause(
            Severity.WARNING if _distance(off[0].tau) > math.log(GROSS) else Severity.INFO,
            tuple(w.layer for w in off),
            f"the squared weights of a unit of {off[0].layer} sum up to τ = {off[0].tau:.2f}, where LeCun-normal "
            f"weights have 1{_known_as(off[0])}{_and_others(len(off) - 1)}",
            "Before every SELU: torch.nn.init.kaiming_normal_(m.weight, nonlinearity='linear') and "
            "torch.nn.init.zeros_(m.bias)",
            {"tau": off[0].tau},
        )
    low, high = run.thresholds.selu_omega
    off = [w for w in layers if not low <= w.omega <= high and _omega_score(w) > STANDARD_ERRORS]
    if off:
        off.sort(key=lambda w: -abs(w.omega))
        yield Cause(
            Severity.WARNING if abs(off[0].omega) > 1 else Severity.INFO,
            tuple(w.layer for w in off),
            f"the weights of a unit of {off[0].layer} sum up to ω = {off[0].omega:.2f} in the mean, where LeCun-normal "
            f"weights have 0{_and_others(len(off) - 1)}",
            "Draw the weights with mean 0",
            {"omega": off[0].omega},
        )


def _dropouts(setup: Setup) -> Iterator[Cause]:
    worst = sorted(((name, p) for name, p in setup.plain_dropouts.items() if 0 < p < 1), key=lambda drop: -drop[1])
    if worst:
        name, p = worst[0]
        yield Cause(
            Severity.WARNING,
            tuple(name for name, _ in worst),
            f"{name} is a plain Dropout({p:g}) behind a SELU, which multiplies its second moment by "
            f"{1 / (1 - p):.2f}{_and_others(len(worst) - 1, 'Dropout')}",
            "In place of Dropout: torch.nn.AlphaDropout(p), with p of 0.05 to 0.1",
            {"dropout": p},
        )


def _input(setup: Setup) -> Iterator[Cause]:
    given = setup.selu_input
    if given is None or not (math.isfinite(given.mean) and math.isfinite(given.variance)):
        return
    squared = given.mean * given.mean  # not **, which raises for a number out of a damaged log
    if 1 / FAR_INPUT <= squared + given.variance <= FAR_INPUT and squared <= given.variance:
        return
    yield Cause(
        Severity.INFO,
        (given.layer,),
        f"{given.layer} is given inputs of mean {given.mean:.2g} and variance {given.variance:.2g} instead of 0 and 1",
        "Standardise the inputs to mean 0 and variance 1",
        {"input_mean": given.mean, "input_variance": given.variance},
    )


def _normalized(setup: Setup) -> Iterator[Cause]:
    if setup.normalized_selus:
        yield Cause(
            Severity.INFO,
            setup.normalized_selus,
            f"{setup.normalized_selus[0]} comes right behind batch normalization, which leaves SELU nothing to "
            f"normalise{_and_others(len(setup.normalized_selus) - 1, 'SELU')}",
            "Take out the batch normalization, or use ReLU or GELU with it",
            {"normalized_selus": float(len(setup.normalized_selus))},
        )


def _distance(tau: float) -> float:
    return abs(math.log(tau))


def _tau_score(w: InitialWeights) -> float:
    """How many standard errors the τ of `w` is from 1, were its weights drawn from a normal distribution.

    It is then a chi-square over its degrees of freedom, whose cube root is close to normal (Wilson and Hilferty 1931)
    also where there are few weights: the standard error of τ itself is √(2/n).
    """
    variance = 2 / (9 * w.weights)
    return float(w.tau ** (1 / 3) - (1 - variance)) / math.sqrt(variance)


def _omega_score(w: InitialWeights) -> float:
    """How many standard errors the ω of `w` is from 0: the sum of a unit's weights has variance τ."""
    return abs(w.omega) / math.sqrt(w.tau / w.units)


def _known_as(w: InitialWeights) -> str:
    for tau, name in ((1 / 3, "torch's own initialisation 1/3"), (2.0, "kaiming_normal_ for ReLU 2")):
        if abs(_tau_score(replace(w, tau=w.tau / tau))) < STANDARD_ERRORS:
            return f" and {name}"
    return ""


def _and_others(others: int, what: str = "layer") -> str:
    return f", and likewise {counted(others, f'other {what}')}" if others else ""


def _flattened(output: OutputActivation) -> str:
    low = -1.0 if output.type.lower() == "tanh" else 0.0
    shared = f"All logits lie in [{low:g}, 1]"
    if output.classes < 2:
        return f"{shared}, and the gradient has to pass a slope below 1 twice."
    least = math.log1p((output.classes - 1) * math.exp(low - 1))
    return (
        f"{shared}: of {output.classes} classes none gets a probability above {math.exp(-least):.2f}, so that the loss "
        f"stays above {least:.2f}, and the gradient has to pass a slope below 1 twice."
    )
