"""The facts of one run, which the oracle's rules judge by."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor, nn

from zoo.activations import ActivationFacts
from zoo.blame import blame_non_finite
from zoo.case import Case
from zoo.fit import Fitted, fit
from zoo.replay import (
    activation_facts,
    all_finite,
    back_signal,
    rebuilt,
    to_double,
    whole_set_score,
    whole_training_set,
)
from zoo.witness import Witness

PLAIN_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


@dataclass
class Facts:
    """What was measured of a run.

    `signal` and `activations` have an entry for each snapshot. Ratios are those of weight matrices only;
    `high_update_streak` counts the most steps in a row with a ratio of 0.1 or more. `selu_weight_gain` is
    std * sqrt(fan_in) of the weights before each SELU.
    """

    name: str
    seconds: float
    steps_done: int
    loss_start: float
    loss_end: float
    accuracy_end: float | None
    error: str | None
    reached_target: bool = False
    signal: list[dict[str, float]] = field(default_factory=list)
    activations: list[dict[str, ActivationFacts]] = field(default_factory=list)
    first_total_grad: float = 0.0
    early_total_grad: float = 0.0
    median_total_grad: float = 0.0
    max_total_grad: float = 0.0
    first_update_ratio: dict[str, float] = field(default_factory=dict)
    median_update_ratio: dict[str, float] = field(default_factory=dict)
    last_update_ratio: dict[str, float] = field(default_factory=dict)
    max_update_ratio: dict[str, float] = field(default_factory=dict)
    high_update_streak: dict[str, int] = field(default_factory=dict)
    never_any_gradient: list[str] = field(default_factory=list)
    median_grad_norm: dict[str, float] = field(default_factory=dict)
    zero_grad_share: dict[str, float] = field(default_factory=dict)
    frozen_on_purpose: int = 0
    clipped_share: float = 0.0
    median_clip_coefficient: float = 1.0
    selu_weight_gain: dict[str, float] = field(default_factory=dict)
    selu_plain_dropout: list[str] = field(default_factory=list)
    non_finite_step: int | None = None
    non_finite_where: str | None = None
    non_finite_from: str | None = None
    skipped_overflow_steps: int = 0


def measure(case: Case) -> Facts:
    """Train `case` under the eyes of a `Witness`, and replay what it kept.

    Raises:
        MissingImagesError: the case needs images that cannot be had.
    """
    witness = Witness(case)
    fitted = fit(case, [witness])
    facts = _outcome(case, fitted, witness)
    for snapshot in witness.snapshots:
        if all_finite(list(snapshot.state.values())):
            facts.signal.append(back_signal(case, snapshot.state))
            facts.activations.append(activation_facts(case, snapshot.state))
    _add_gradients(facts, witness)
    matrices = {n for n, p in fitted.module.named_parameters() if p.requires_grad and p.dim() >= 2}
    _add_updates(facts, {n: ratios for n, ratios in witness.update_ratio.items() if n in matrices})
    facts.frozen_on_purpose = sum(not p.requires_grad for p in fitted.module.parameters())
    facts.selu_weight_gain, facts.selu_plain_dropout = _selu_setup(case, witness.snapshots[0].state)
    if witness.accident is not None:
        facts.non_finite_step = witness.accident.step
        facts.non_finite_where = witness.accident.where
        facts.non_finite_from = blame_non_finite(case, witness.accident)
    return facts


def _outcome(case: Case, fitted: Fitted, witness: Witness) -> Facts:
    loss_start, _ = whole_set_score(case, rebuilt(case, witness.snapshots[0].state))
    broken = witness.accident is not None
    loss_end, accuracy_end = (math.inf, 0.0) if broken else whole_set_score(case, fitted.module)
    return Facts(
        name=case.name,
        seconds=round(fitted.seconds, 2),
        steps_done=fitted.trainer.global_step,
        loss_start=loss_start,
        loss_end=loss_end,
        accuracy_end=accuracy_end,
        error=None if fitted.error is None else repr(fitted.error)[:200],
        reached_target=case.learns_to is not None and loss_end <= case.learns_to,
        skipped_overflow_steps=witness.skipped_overflow_steps,
    )


def _add_gradients(facts: Facts, witness: Witness) -> None:
    totals = witness.total_grad_norm
    finite = [t for t in totals if math.isfinite(t)] or [0.0]
    facts.first_total_grad = finite[0]
    facts.early_total_grad = median(finite[: max(1, len(totals) // 10)])
    facts.median_total_grad = median(finite)
    facts.max_total_grad = max(finite)
    facts.never_any_gradient = [n for n, norms in witness.grad_norm.items() if all(g == 0.0 for g in norms)]
    facts.median_grad_norm = {n: median(norms) for n, norms in witness.grad_norm.items()}
    facts.zero_grad_share = {n: sum(z) / len(z) for n, z in witness.zero_grad_share.items()}
    clips = witness.clip_coefficient
    facts.clipped_share = sum(c < 1.0 for c in clips) / max(1, len(clips))
    facts.median_clip_coefficient = median(clips) if clips else 1.0


def _add_updates(facts: Facts, ratios: dict[str, list[float]]) -> None:
    facts.high_update_streak = {n: _longest_streak(x >= 0.1 for x in r) for n, r in ratios.items()}
    facts.max_update_ratio = {n: max((x for x in r if math.isfinite(x)), default=0.0) for n, r in ratios.items()}
    some = {n: r for n, r in ratios.items() if r}
    facts.first_update_ratio = {n: r[0] for n, r in some.items()}
    facts.median_update_ratio = {n: median(r) for n, r in some.items()}
    facts.last_update_ratio = {n: r[-1] for n, r in some.items()}


def _longest_streak(flags: Iterable[bool]) -> int:
    best = now = 0
    for flag in flags:
        now = now + 1 if flag else 0
        best = max(best, now)
    return best


def _selu_setup(case: Case, state: dict[str, Tensor]) -> tuple[dict[str, float], list[str]]:
    """Return the gain of the weights right before each SELU, and the plain dropouts where there is a SELU."""
    module = rebuilt(case, state).train()
    gains: dict[str, float] = {}
    last: list[tuple[str, Tensor]] = []  # the layer with weights that ran last
    selus: list[nn.Module] = []

    def see(name: str, m: nn.Module) -> None:
        if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d):
            last[:] = [(name, m.weight)]
        elif isinstance(m, nn.SELU):
            selus.append(m)
            for before, weight in last:
                gains[before] = (weight.std() * math.sqrt(weight[0].numel())).item()

    for name, m in module.named_modules():
        m.register_forward_hook(lambda m, args, out, name=name: see(name, m))
    with torch.no_grad():
        module.compute_loss(to_double(next(iter(whole_training_set(case)))))
    dropouts = [n for n, m in module.named_modules() if isinstance(m, PLAIN_DROPOUTS) and m.p > 0]
    return gains, dropouts if selus else []
