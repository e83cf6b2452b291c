"""Watches a run as it happens, without touching it, for the oracle."""

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from zoo.case import Case

SNAPSHOT_AT = (0.0, 0.1, 0.5, 1.0)
"""Shares of a run at which the state of the model is kept."""

NEVER = 10**9


def norm64(t: Tensor) -> float:
    return float(t.detach().double().norm())


@dataclass
class Snapshot:
    step: int
    state: dict[str, Tensor]


@dataclass
class Accident:
    """The first batch after which something was NaN or infinite, with all that is needed to replay it.

    `where` is "loss", "gradient" or "weight".
    """

    step: int
    where: str
    state: dict[str, Tensor]
    batch: Any
    rng: Tensor


class Witness(pl.Callback):
    """Keeps norms of gradients, weights and updates, summed in float64: an entry for each step in each list."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.losses: list[float] = []
        self.total_grad_norm: list[float] = []
        self.clip_coefficient: list[float] = []
        self.grad_norm: dict[str, list[float]] = defaultdict(list)
        self.zero_grad_share: dict[str, list[float]] = defaultdict(list)
        self.update_ratio: dict[str, list[float]] = defaultdict(list)
        self.snapshots: list[Snapshot] = []
        self.accident: Accident | None = None
        self.skipped_overflow_steps = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.due = [round(f * self.case.steps) for f in SNAPSHOT_AT]
        self.last_step = trainer.global_step
        self.before = _weights(pl_module)
        self._snapshot(trainer, pl_module)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        if self.accident is None:
            self.rng = torch.get_rng_state()
            self.state_before = _state(pl_module)

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Look at the gradients: after backward and unscaling, before clipping."""
        self.owned = {id(p) for group in args[0].param_groups for p in group["params"]}
        squares, finite = 0.0, True
        for name, p in pl_module.named_parameters():
            if not p.requires_grad:
                continue
            in_this_optimizer = id(p) in self.owned
            if not in_this_optimizer and len(trainer.optimizers) > 1:
                continue
            self.zero_grad_share[name].append(1.0 if p.grad is None else (p.grad == 0).double().mean().item())
            g = 0.0 if p.grad is None else norm64(p.grad)
            self.grad_norm[name].append(g)
            finite = finite and math.isfinite(g)
            if in_this_optimizer:
                squares += g * g if math.isfinite(g) else 0.0
        self.total_grad_norm.append(math.sqrt(squares) if finite else math.inf)
        if not finite and getattr(trainer.precision_plugin, "scaler", None) is not None:
            self.skipped_overflow_steps += 1  # the GradScaler drops this step by design
        elif not finite:
            self._accident("gradient", trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        outputs, batch = args[:2]
        loss = outputs["loss"] if isinstance(outputs, dict) and "loss" in outputs else None
        if loss is not None:
            self.losses.append(float(loss))
            if not math.isfinite(self.losses[-1]):
                self._accident("loss", trainer, batch)
        self._see_clipping(trainer, pl_module)
        if trainer.global_step != self.last_step:
            self.last_step = trainer.global_step
            self._see_updates(trainer, pl_module, batch)
            if trainer.global_step >= self.due[0]:
                self._snapshot(trainer, pl_module)
        if self.accident is not None and self.accident.batch is None:
            self.accident.batch = batch

    def _see_updates(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any) -> None:
        after = _weights(module)
        for name, w in after.items():
            old = self.before[name]
            size, change = norm64(old), norm64(w.double() - old.double())
            if math.isfinite(change):
                self.update_ratio[name].append(change / size if size else (math.inf if change else 0.0))
            else:  # a broken step says nothing about speed
                self._accident("weight", trainer, batch)
        self.before = after

    def _see_clipping(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Compare norms: gradients left over after the step are the clipped ones, whoever clipped them and how."""
        if len(trainer.optimizers) > 1 or len(self.clip_coefficient) == len(self.total_grad_norm):
            return
        before = self.total_grad_norm[-1]
        grads = [p.grad for p in module.parameters() if p.grad is not None and id(p) in self.owned]
        after = math.sqrt(sum(norm64(g) ** 2 for g in grads))
        comparable = 0 < before < math.inf and math.isfinite(after)
        self.clip_coefficient.append(after / before if comparable and after < 0.9999 * before else 1.0)

    def _accident(self, where: str, trainer: pl.Trainer, batch: Any = None) -> None:
        if self.accident is None:
            self.accident = Accident(trainer.global_step, where, self.state_before, batch, self.rng)

    def _snapshot(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        while self.due and trainer.global_step >= self.due[0]:
            self.due.pop(0)
        self.due = self.due or [NEVER]
        self.snapshots.append(Snapshot(trainer.global_step, _state(module)))


def _state(module: pl.LightningModule) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in module.state_dict().items()}


def _weights(module: pl.LightningModule) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in module.named_parameters() if p.requires_grad}
