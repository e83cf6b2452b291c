"""What is true of a run: each label's rule says yes, no or grey of its facts, and names layers.

| label | measured as | harm needed |
|---|---|---|
| vanishing_gradient | error signal at a layer (or a time step) < 1e-3 of the last's, to half of the run | yes |
| exploding_gradient | that signal > 1e3; or gradient norm grows by 1e3, or starts at 1e3 times the cured twin's | yes |
| dead_relu | at least 40 % of a ReLU layer's units (channels) are zero for every training sample at the end | no |
| selu_drift | a SELU output has mean outside [-0.1, 0.1] or variance outside [0.8, 1.5] at all four snapshots | no |
| saturated_activation | half of a sigmoid's or tanh's outputs have < 1 % of the top slope (median snapshot) | yes |
| uneven_learning_speed | median relative updates of two weight matrices differ by 1e3 or more | yes |
| no_gradient | a trainable parameter has None or exactly zero gradient at every step | no |
| non_finite | NaN or infinity in loss, gradient or weight, overflows that a GradScaler skips aside | no |
| update_ratio_high | five or more steps in a row with ‖Δw‖/‖w‖ >= 0.1 for a weight matrix | yes |
| update_ratio_low | median ‖Δw‖/‖w‖ <= 1e-6 for a weight matrix | yes |
| selu_misconfigured | weights before a SELU with std * sqrt(fan_in) outside [0.8, 1.25], or a plain dropout | no |
| clipping_dominates | at least 90 % of the steps clipped, typically to 20 % of the norm or less | yes |

Harm: the sick run achieves less than 60 % of the loss decrease of its cured twin.
"""

import math
from collections import defaultdict
from collections.abc import Callable
from enum import Enum
from statistics import median
from typing import NamedTuple

from zoo.activations import ActivationFacts
from zoo.case import LABELS
from zoo.facts import Facts


class Answer(Enum):
    YES = "yes"
    NO = "no"
    GREY = "grey"


class Verdict(NamedTuple):
    answer: Answer
    layers: list[str]


Rule = Callable[[Facts, Facts | None], Verdict]
"""From the facts of a run and those of its cured twin, where it has one."""

YES, NO, GREY = Answer
SATURATING = ("sigmoid", "tanh")


def progress(facts: Facts, cured: Facts | None) -> float:
    """Return how much of the cured twin's loss decrease this run achieved: 1 is all, 0 none, less is worse."""
    if cured is None:
        return math.nan
    gain = cured.loss_start - cured.loss_end
    return (cured.loss_start - facts.loss_end) / gain if gain > 0 else math.nan


def harm(f: Facts, cured: Facts | None) -> Answer:
    """Return the answer for labels that stand for harm: the numbers alone do not make a run sick."""
    if cured is None:
        return NO if f.reached_target else YES
    return GREY if progress(f, cured) > 0.6 else YES


def vanishing_gradient(f: Facts, cured: Facts | None) -> Verdict:
    """Judge the start, a tenth and half of the run. Exactly zero is cut off, not faint: grey."""
    early = f.signal[:3]
    names = list(early[0]) if early else []
    faint = [n for n in names if all(0 < s.get(n, 1.0) < 1e-3 for s in early)]
    if faint:
        return Verdict(harm(f, cured), faint)
    weak = any(all(s.get(n, 1.0) < 1e-2 for s in early) for n in names)
    return Verdict(GREY if weak else NO, [])


def exploding_gradient(f: Facts, cured: Facts | None) -> Verdict:
    """Judge depth, time, and where one module holds all the depth the cured twin."""
    deep = sorted({n for s in f.signal for n, v in s.items() if v > 1e3})
    growth = f.max_total_grad / f.early_total_grad if f.early_total_grad else 0.0
    above_twin = f.first_total_grad / cured.first_total_grad if cured and cured.first_total_grad else 0.0
    if deep or growth > 1e3 or above_twin > 1e3:
        return Verdict(harm(f, cured), deep)
    hot = any(v > 1e2 for s in f.signal for v in s.values()) or growth > 1e2
    return Verdict(GREY if hot else NO, [])


def dead_relu(f: Facts, cured: Facts | None) -> Verdict:
    relus = {n: a for n, a in _last_activations(f).items() if a.kind == "relu" and a.units >= 8}
    dead = [n for n, a in relus.items() if a.dead_share >= 0.4]
    if dead:
        return Verdict(YES, dead)
    return Verdict(GREY if any(a.dead_share > 0.1 for a in relus.values()) else NO, [])


def selu_drift(f: Facts, cured: Facts | None) -> Verdict:
    """Judge all snapshots: learning carries good SELU nets out of the bounds later on, hence grey for some."""
    outside: dict[str, list[bool]] = defaultdict(list)
    for snapshot in f.activations:
        for n, a in snapshot.items():
            if a.kind == "selu":
                outside[n].append(abs(a.mean) > 0.1 or not 0.8 <= a.variance <= 1.5)
    always = [n for n, seen in outside.items() if all(seen)]
    if always:
        return Verdict(YES, always)
    return Verdict(GREY if any(any(seen) for seen in outside.values()) else NO, [])


def saturated_activation(f: Facts, cured: Facts | None) -> Verdict:
    typical = flat_shares(f)
    stuck = [n for n, share in typical.items() if share >= 0.5]
    if stuck:
        return Verdict(harm(f, cured), stuck)
    return Verdict(GREY if any(share > 0.25 for share in typical.values()) else NO, [])


def uneven_learning_speed(f: Facts, cured: Facts | None) -> Verdict:
    ratios = {n: r for n, r in f.median_update_ratio.items() if n not in f.never_any_gradient and math.isfinite(r)}
    if 0 < len(_never_moved(f)) < len(f.max_update_ratio):
        return Verdict(GREY, [])  # some move and some do not: true as words go, but no_gradient says it better
    top = max(ratios.values(), default=0.0)
    if len(ratios) < 2 or top == 0:
        return Verdict(NO, [])
    slow = [n for n, r in ratios.items() if r * 1e3 <= top]
    if slow:
        return Verdict(harm(f, cured), slow)
    return Verdict(GREY if any(r * 1e2 <= top for r in ratios.values()) else NO, [])


def no_gradient(f: Facts, cured: Facts | None) -> Verdict:
    if f.never_any_gradient:
        return Verdict(YES, f.never_any_gradient)
    return Verdict(GREY if _never_moved(f) else NO, _never_moved(f))  # has gradients, yet never moves


def non_finite(f: Facts, cured: Facts | None) -> Verdict:
    return Verdict(NO, []) if f.non_finite_step is None else Verdict(YES, [f.non_finite_from or ""])


def update_ratio_high(f: Facts, cured: Facts | None) -> Verdict:
    """Ask for five steps: under Adam a far too large rate shows for some eight, until the weights have grown to it."""
    high = [n for n, streak in f.high_update_streak.items() if streak >= 5]
    if high:
        return Verdict(harm(f, cured), high)
    blown = cured is not None and any(r >= 1 for r in f.max_update_ratio.values())
    return Verdict(GREY if blown or any(streak >= 3 for streak in f.high_update_streak.values()) else NO, [])


def update_ratio_low(f: Facts, cured: Facts | None) -> Verdict:
    ratios = {n: r for n, r in f.median_update_ratio.items() if n not in f.never_any_gradient}
    low = [n for n, r in ratios.items() if r <= 1e-6]
    if low:
        return Verdict(harm(f, cured), low)
    slowish = any(r < 1e-5 for r in ratios.values()) or _never_moved(f)
    return Verdict(GREY if slowish and not f.reached_target else NO, [])


def selu_misconfigured(f: Facts, cured: Facts | None) -> Verdict:
    wrong = [n for n, g in f.selu_weight_gain.items() if not 0.8 <= g <= 1.25] + f.selu_plain_dropout
    return Verdict(YES if wrong else NO, wrong)


def clipping_dominates(f: Facts, cured: Facts | None) -> Verdict:
    if f.clipped_share >= 0.9 and f.median_clip_coefficient <= 0.2:
        return Verdict(harm(f, cured), [])
    return Verdict(GREY if f.clipped_share > 0.3 else NO, [])


TRUTH: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        vanishing_gradient, exploding_gradient, dead_relu, selu_drift, saturated_activation, uneven_learning_speed,
        no_gradient, non_finite, update_ratio_high, update_ratio_low, selu_misconfigured, clipping_dominates,
    )
}  # fmt: skip
assert TRUTH.keys() == LABELS.keys()


def flat_shares(f: Facts) -> dict[str, float]:
    """Return the share of flat outputs of each sigmoid and tanh, the median over the snapshots."""
    flat: dict[str, list[float]] = defaultdict(list)
    for snapshot in f.activations:
        for n, a in snapshot.items():
            if a.kind in SATURATING:
                flat[n].append(a.flat_share)
    return {n: median(shares) for n, shares in flat.items()}


def _last_activations(f: Facts) -> dict[str, ActivationFacts]:
    return f.activations[-1] if f.activations else {}


def _never_moved(f: Facts) -> list[str]:
    """Trainable weight matrices that end bit for bit as they began, after a run that did take steps."""
    if f.non_finite_step is not None:
        return []
    return [n for n, r in f.max_update_ratio.items() if r == 0.0]
