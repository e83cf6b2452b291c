"""The conditions of AutoTrainer (Zhang et al., ICSE 2021), with the thresholds of `AutoTrainer/utils/monitor.py`."""

import math
from itertools import pairwise

import torch
from torch import Tensor

from rule_sets.watch import Gradients, Progress, RuleSet, is_finite

BETA_1, BETA_2, BETA_3 = 1e-3, 1e-4, 70.0
"""Vanishing: the ratio of the first gradient norm to the last, and the first itself; exploding: the ratio."""

GAMMA = 0.7
"""Dying ReLU: share of elements of all gradients that are exactly zero."""

HUGE_LOSS = 1e3
THETA, DELTA = 0.7, 0.01
"""The accuracy that is called good, and the gain from epoch to epoch that is called none."""

JUDGE_FROM = 0.3
"""Share of a run after which symptoms count."""

CHECK_EVERY = 32
"""Steps between two looks: an epoch of 2,048 samples in batches of 64."""


class AutoTrainer(RuleSet):
    """Symptoms count only in runs whose accuracy is poor or stuck, and only one at a time.

    That gate presumes classification: it stays open where a run has no accuracy.
    """

    accuracy = True

    def __init__(self) -> None:
        super().__init__()
        self.symptoms: set[str] = set()
        self.epoch_accuracy: list[float] = []
        self.running: list[float] = []
        self.has_accuracy = True

    def see_gradients(self, gradients: Gradients, progress: Progress) -> None:
        if progress.step % CHECK_EVERY:
            return
        present = [g.double() for g in gradients.values() if g is not None]
        if not all(bool(torch.isfinite(g).all()) for g in present):
            self._broken()
        first, ratio = _first_and_ratio([g.norm().item() for g in present if g.dim() > 1])
        if ratio < BETA_1 and first < BETA_2:
            self.symptoms.add("vanishing_gradient")
        if ratio > BETA_3:
            self.symptoms.add("exploding_gradient")
        elements = sum(g.numel() for g in present)
        if elements and sum(int((g == 0).sum()) for g in present) / elements >= GAMMA:
            self.symptoms.add("dead_relu")

    def see_update(self, name: str, old: Tensor, new: Tensor) -> None:
        if not torch.isfinite(new).all():
            self._broken()

    def end_batch(self, loss: float | None, accuracy: float | None, progress: Progress) -> None:
        if not is_finite(loss):
            self._broken()
        elif loss is not None and loss > HUGE_LOSS:
            self.say("exploding_gradient", None)
        self.has_accuracy = accuracy is not None
        self.running += [] if accuracy is None else [accuracy]
        if len(self.running) == CHECK_EVERY:
            self.epoch_accuracy.append(sum(self.running) / len(self.running))
            self.running = []
        if progress.step >= JUDGE_FROM * progress.of and self._is_poor():
            order = ("dead_relu", "exploding_gradient", "vanishing_gradient")
            for symptom in [s for s in order if s in self.symptoms][:1]:
                self.say(symptom, None)

    def _is_poor(self) -> bool:
        gains = [b - a for a, b in pairwise(self.epoch_accuracy)]
        stuck = bool(gains) and max(gains) < DELTA
        return stuck or not self.has_accuracy or max(self.epoch_accuracy, default=0.0) < THETA

    def _broken(self) -> None:
        self.say("exploding_gradient", None)
        self.say("non_finite", None)


def _first_and_ratio(norms: list[float]) -> tuple[float, float]:
    """Return the first gradient norm of a matrix and its ratio to the last one."""
    if len(norms) < 2 or not norms[-1]:
        return math.nan, math.nan if norms and not norms[0] else math.inf
    return norms[0], norms[0] / norms[-1]
