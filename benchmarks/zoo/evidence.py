"""What the oracle measured of a case, as a line of a Markdown table."""

import math
from collections.abc import Callable, Iterator
from statistics import median

from zoo.activations import ActivationFacts
from zoo.facts import Facts
from zoo.oracle import Measured
from zoo.truth import flat_shares

HEADER = "| case | labels | loss over the training set | measured |\n|---|---|---|---|"


def line(measured: Measured) -> str:
    case, f, cured, *_ = measured
    end = _losses(f)
    if case.sound:
        return f"| {case.name} | sound | {end} | {'; '.join(_temptations(f)) or '-'} |"
    if cured is not None and case.cure is not None:
        end += f"; cured ({case.cure.what}): {_losses(cured)}"
    said = "<br>".join(f"{label}: {EVIDENCE[label](f, cured or f)}" for label in sorted(case.labels))
    grey = f"<br>*not scored: {', '.join(sorted(case.also_true))}*" if case.also_true else ""
    return f"| {case.name} | {', '.join(sorted(case.labels))} | {end} | {said}{grey} |"


def _vanishing(f: Facts, cured: Facts) -> str:
    early = f.signal[:3]
    name = min(early[0], key=lambda n: max(s.get(n, 1.0) for s in early))
    return f"error signal at {name} is {', '.join(_short(s.get(name, math.nan)) for s in early)} of the last layer's"


def _exploding(f: Facts, cured: Facts) -> str:
    deepest = max((v for s in f.signal for v in s.values()), default=math.nan)
    return (
        f"first gradient norm {_short(f.first_total_grad)} (cured: {_short(cured.first_total_grad)}), "
        f"largest {_short(f.max_total_grad)}; signal first/last layer up to {_short(deepest)}"
    )


def _dead(f: Facts, cured: Facts) -> str:
    shares = {n: a.dead_share for n, a in _at_the_end(f, "relu").items() if a.dead_share >= 0.4}
    return "dead over the whole training set: " + ", ".join(f"{v:.0%} of {n}" for n, v in shares.items())


def _drift(f: Facts, cured: Facts) -> str:
    return f"start: {_worst_selu(f.activations[0])}; end: {_worst_selu(f.activations[-1])}"


def _worst_selu(snapshot: dict[str, ActivationFacts]) -> str:
    selus = {n: a for n, a in snapshot.items() if a.kind == "selu"}
    n = max(selus, key=lambda n: abs(math.log(max(selus[n].variance, 1e-30))))
    return f"{n} mean {selus[n].mean:.2f} variance {_short(selus[n].variance)}"


def _saturated(f: Facts, cured: Facts) -> str:
    return "flat outputs: " + ", ".join(f"{share:.0%} of {n}" for n, share in flat_shares(f).items() if share >= 0.5)


def _speeds(f: Facts, cured: Facts) -> str:
    by_speed = sorted((r, n) for n, r in f.median_update_ratio.items())
    (slow, slowest), (fast, fastest) = by_speed[0], by_speed[-1]
    return f"median ‖Δw‖/‖w‖: {_short(slow)} at {slowest}, {_short(fast)} at {fastest}"


def _no_gradient(f: Facts, cured: Facts) -> str:
    return f"never any gradient: {', '.join(f.never_any_gradient[:4])}"


def _non_finite(f: Facts, cured: Facts) -> str:
    return f"step {f.non_finite_step}: {f.non_finite_where} not finite, begun in {f.non_finite_from}"


def _fast_updates(f: Facts, cured: Facts) -> str:
    streak, n = max((streak, n) for n, streak in f.high_update_streak.items())
    return f"{streak} steps in a row with ‖Δw‖/‖w‖ >= 0.1 at {n} (max {_short(f.max_update_ratio[n])})"


def _misconfigured(f: Facts, cured: Facts) -> str:
    gains = [g for g in f.selu_weight_gain.values() if not 0.8 <= g <= 1.25]
    said = [f"weight std * sqrt(fan_in) = {_short(median(gains))} in {len(gains)} layers"] if gains else []
    return "; ".join(said + [f"plain dropout {n}" for n in f.selu_plain_dropout[:1]])


def _clipping(f: Facts, cured: Facts) -> str:
    return f"{f.clipped_share:.0%} of steps clipped, typically to {f.median_clip_coefficient:.1%} of the norm"


EVIDENCE: dict[str, Callable[[Facts, Facts], str]] = {
    "vanishing_gradient": _vanishing,
    "exploding_gradient": _exploding,
    "dead_relu": _dead,
    "selu_drift": _drift,
    "saturated_activation": _saturated,
    "uneven_learning_speed": _speeds,
    "no_gradient": _no_gradient,
    "non_finite": _non_finite,
    "update_ratio_high": _fast_updates,
    "update_ratio_low": _speeds,
    "selu_misconfigured": _misconfigured,
    "clipping_dominates": _clipping,
}


def _temptations(f: Facts) -> Iterator[str]:
    """Facts of a sound run that a naive threshold would take for sickness."""
    yield from _tempting_activations(f)
    yield from _tempting_gradients(f)
    yield from _tempting_updates(f)
    if f.frozen_on_purpose:
        yield f"{f.frozen_on_purpose} parameters frozen on purpose"
    if f.clipped_share:
        yield f"{f.clipped_share:.0%} of steps clipped"
    if f.skipped_overflow_steps:
        yield f"{f.skipped_overflow_steps} steps with infinite gradients, skipped by the scaler"


def _tempting_activations(f: Facts) -> Iterator[str]:
    relus = _at_the_end(f, "relu").values()
    zero = max((a.zero_share for a in relus), default=0.0)
    if zero > 0.5:
        yield f"{zero:.0%} zeros, dead {max(a.dead_share for a in relus):.0%}"
    seen = [a for snapshot in f.activations for a in snapshot.values()]
    flat = max((a.flat_share for a in seen), default=0.0)
    if flat > 0.25:
        yield f"{flat:.0%} of outputs saturated"
    selus = [a for a in seen if a.kind == "selu"]
    if selus:
        means, variances = [a.mean for a in selus], [a.variance for a in selus]
        yield (
            f"SELU mean within {min(means):.2f}..{max(means):.2f}, variance {min(variances):.2f}..{max(variances):.2f}"
        )


def _tempting_gradients(f: Facts) -> Iterator[str]:
    for when, signal in zip(("start", "10 %", "half", "end"), f.signal, strict=False):
        cut = [n for n, v in signal.items() if v == 0]
        if cut:
            yield f"exactly zero signal at {when} in {len(cut)} layers"
    weakest = min((v for s in f.signal for v in s.values() if v > 0), default=1.0)
    if weakest < 0.05:
        yield f"signal down to {_short(weakest)}"
    faint = sorted((g, n) for n, g in f.median_grad_norm.items() if 0 < g < 1e-5)
    if faint:
        yield f"median gradient norm {_short(faint[0][0])} at {faint[0][1]}"
    share, empty = max((share, n) for n, share in f.zero_grad_share.items())
    if share > 0.2:
        yield f"{share:.0%} of the gradient of {empty} is exactly zero or None"
    if f.early_total_grad and f.max_total_grad > 10 * f.median_total_grad:
        yield f"gradient spike {f.max_total_grad / f.median_total_grad:.0f} times the median"


def _tempting_updates(f: Facts) -> Iterator[str]:
    slowest = min(f.median_update_ratio.values(), default=1.0)
    if slowest < 1e-4:
        yield f"median ‖Δw‖/‖w‖ down to {_short(slowest)}"
    first, last = max(f.first_update_ratio.values()), max(f.last_update_ratio.values())
    if first < 1e-5:
        yield f"first step moves no matrix by more than {_short(first)}"
    if last < 1e-4:
        yield f"last step moves no matrix by more than {_short(last)}"
    peak = max(f.max_update_ratio.values(), default=0.0)
    if peak > 0.1:
        yield f"‖Δw‖/‖w‖ up to {_short(peak)}"


def _at_the_end(f: Facts, kind: str) -> dict[str, ActivationFacts]:
    """Return the activations of a kind at the last snapshot."""
    return {n: a for n, a in f.activations[-1].items() if a.kind == kind} if f.activations else {}


def _losses(f: Facts) -> str:
    accuracy = "" if f.accuracy_end is None else f", acc {f.accuracy_end:.2f}"
    return f"{_short(f.loss_start)} → {_short(f.loss_end)}{accuracy}"


def _short(x: float) -> str:
    return f"{x:.2g}"
