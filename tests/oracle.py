"""Brute force: keeps every tensor of every step whole, and computes from them, in float64, what is to be measured."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

Tensors = dict[str, Tensor]
"""Parameter → its gradient or its value, all elements."""

RECTIFIERS = (nn.ReLU, nn.ReLU6)
LIMITS: dict[type[nn.Module], tuple[float, float]] = {nn.Sigmoid: (0, 1), nn.Tanh: (-1, 1)}
ACTIVATIONS: tuple[type[nn.Module], ...] = (*RECTIFIERS, *LIMITS, nn.SELU, nn.GELU, nn.ELU, nn.LeakyReLU)
WINDOW = 10
"""Batches after which a silent unit is dead."""
CALLS = 8
"""Calls of a module within one forward that are told apart."""
OUTSIDE = "(outside)"
"""The layer of parameters that belong to no module: they count in totals alone."""


@dataclass
class Gradients:
    """Those of one optimizer at one moment, unscaled; `trainable` are the names of all its trainable parameters."""

    tensors: Tensors
    trainable: set[str]

    def total(self) -> float:
        return math.sqrt(sum(float(t.abs().square().sum()) for t in self.tensors.values()))


@dataclass
class Kept:
    """What one step left, by optimizer; a step holds all batches since the one before, up to an optimizer's step."""

    backward: dict[int, Gradients] = field(default_factory=dict)
    before: dict[int, Gradients] = field(default_factory=dict)
    after: dict[int, Gradients] = field(default_factory=dict)
    weights: dict[int, Tensors] = field(default_factory=dict)
    moved: dict[int, Tensors] = field(default_factory=dict)
    batches: list[dict[str, list[Tensor]]] = field(default_factory=list)
    """For each micro-batch: row of an activation → its outputs, of shape (outputs, units)."""
    losses: list[float] = field(default_factory=list)
    scale: float | None = None


class Expected(NamedTuple):
    """What is to be measured of a step: metric → layer → value, and the globals. What is absent is not measured."""

    metrics: dict[str, dict[str, float]]
    globals: dict[str, float]


class Oracle(pl.Callback):
    """Watches a fit from outside, with hooks of torch and Lightning alone, none of them on the model.

    Args:
        unscales_itself: Whether the optimizer divides gradients by the loss scale within its own step.
        overwrites: Whether it writes something else into them there, so that those before clipping have to do.
        channels: Rows of activations whose units are channels, dimension 1; else they are features, the last one.
        functions: Rows of activations called as functions: the module whose output they are given, and the function.
    """

    def __init__(
        self,
        unscales_itself: bool = False,
        overwrites: bool = False,
        channels: Iterable[str] = (),
        functions: Mapping[str, Any] | None = None,
    ) -> None:
        self.steps: dict[int, Kept] = {}
        self.kinds: dict[str, type[nn.Module]] = {}
        """The class of the activation in each row."""
        self._now = Kept()
        self._unscales_itself = unscales_itself
        self._overwrites = overwrites
        self._channels = set(channels)
        self._functions = functions or {}
        self._names: dict[nn.Module, str] = {}
        self._optimizers: list[Optimizer] = []
        self._handles: list[RemovableHandle] = []
        self._calls: Counter[str] = Counter()
        self._hears = False
        self._loss: float | None = None

    # What it hears.

    @contextmanager
    def hearing(self) -> Iterator["Oracle"]:
        """Hear every module of the process until the end."""
        handle = register_module_forward_hook(self._keep_output)
        try:
            yield self
        finally:
            handle.remove()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._names = {module: name for name, module in pl_module.named_modules()}
        training_step = trainer.strategy.training_step

        def kept(*args: Any, **kwargs: Any) -> Any:
            output = training_step(*args, **kwargs)
            loss = output["loss"] if isinstance(output, dict) else output
            if isinstance(loss, Tensor):
                self._loss = loss.item()  # of several evaluations the last one
            return output

        trainer.strategy.training_step = kept  # type: ignore[method-assign]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        for i, optimizer in enumerate(trainer.optimizers):
            if optimizer not in self._optimizers:
                self._optimizers.append(optimizer)
                self._handles.append(optimizer.register_step_pre_hook(partial(self._keep_unannounced, trainer, i)))
                self._handles.append(optimizer.register_step_post_hook(partial(self._keep_after, pl_module, i)))
        self._now.batches.append(defaultdict(list))
        self._calls.clear()
        self._hears, self._loss = True, None

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._hears = False  # a batch that the model refused has begun, and does not end

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        self._hears = False  # a forward within a backward is a repetition

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not pl_module.automatic_optimization:
            self._hears = True
            for i, optimizer in enumerate(trainer.optimizers):
                self._now.backward[i] = gradients(pl_module, optimizer, loss_scale(trainer) or 1)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        optimizer = getattr(optimizer, "optimizer", optimizer)
        i = next(i for i, o in enumerate(trainer.optimizers) if o is optimizer)
        now, scale = self._now, loss_scale(trainer)
        now.scale = scale
        now.before[i] = gradients(pl_module, optimizer, scale or 1 if self._unscales_itself else 1)
        backward = now.backward.pop(i, None)
        if backward is not None and backward.total() > now.before[i].total():
            now.before[i] = backward  # clipped by hand since
        if i not in now.weights or i in now.moved:  # else a closure is evaluated again within one step
            now.weights[i] = values(pl_module, optimizer)
        now.after.pop(i, None)
        now.moved.pop(i, None)

    def _keep_unannounced(self, trainer: pl.Trainer, i: int, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        announced = i in self._now.weights and i not in self._now.moved
        closure = args[1:] or kwargs.get("closure")
        if not announced and not closure and not trainer.lightning_module.automatic_optimization:
            self.on_before_optimizer_step(trainer, trainer.lightning_module, optimizer)

    def _keep_after(self, module: pl.LightningModule, i: int, optimizer: Optimizer, *_: Any) -> None:
        self._now.moved[i] = values(module, optimizer)
        overflow = self._now.scale and not math.isfinite(self._now.before[i].total())
        if not overflow:
            self._now.after[i] = self._now.before[i] if self._overwrites else gradients(module, optimizer)

    def _keep_output(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._hears and (name := self._names.get(module)) is not None:
            for row, (producer, function) in self._functions.items():
                if producer == name:
                    self._keep(row, function(output.detach()))
                    self.kinds[row] = nn.ReLU
            if isinstance(module, ACTIVATIONS):
                self._calls[name] = call = min(self._calls[name] + 1, CALLS)
                row = name if call == 1 else f"{name}#{call}"
                self.kinds[row] = type(module)
                self._keep(row, output.detach())

    def _keep(self, row: str, output: Tensor) -> None:
        if row in self._channels:
            output = output.transpose(1, -1)
        self._now.batches[-1][row].append(output.double().reshape(-1, output.shape[-1]).clone())

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self._hears = False
        if self._loss is not None:
            self._now.losses.append(self._loss)
        self._loss = None
        if self._now.before or self._now.moved:
            self.steps[trainer.fit_loop.epoch_loop._batches_that_stepped] = self._now
            self._now = Kept()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for handle in self._handles:
            handle.remove()
        self._optimizers, self._handles = [], []

    # What is to be measured.

    def expected(self) -> dict[int, Expected]:
        """What is to be measured of each step."""
        fired: dict[str, list[Tensor]] = defaultdict(list)
        return {step: Expected(self._metrics(kept, fired), _globals(kept)) for step, kept in self.steps.items()}

    def _metrics(self, kept: Kept, fired: dict[str, list[Tensor]]) -> dict[str, dict[str, float]]:
        before, after = list(kept.before.values()), list(kept.after.values())
        weights = [kept.weights[i] for i in kept.before]
        changes = [{n: new - kept.weights[i][n] for n, new in kept.moved[i].items()} for i in kept.after]
        weight_norm, change = norms(weights), norms(changes)
        outputs = {row: measure(self.kinds[row], x) for row, x in joined(kept.batches).items()}
        outputs = {row: outputs[row] | units for row, units in self._liveness(kept, fired).items()}
        metrics = defaultdict(dict, {name: {r: m[name] for r, m in outputs.items() if name in m} for name in OUTPUTS})
        metrics["grad_norm"] = norms([g.tensors for g in before])
        metrics["grad_norm_clipped"] = norms([g.tensors for g in after])
        metrics["weight_norm"] = weight_norm
        metrics["update_ratio"] = {n: change[n] / w for n, w in weight_norm.items() if n in change and w}
        metrics["no_gradient_fraction"] = missing(before)
        metrics["nonfinite"] = {
            layer: 1.0 * (not math.isfinite(metrics["grad_norm"].get(layer, 0)))
            + 2.0 * (not math.isfinite(weight_norm.get(layer, 0)))
            + 4.0 * (not math.isfinite(metrics["act_mean"].get(layer, 0)))
            for layer in {*metrics["grad_norm"], *weight_norm, *metrics["act_mean"]}
        }
        return {name: {n: v for n, v in layers.items() if n != OUTSIDE} for name, layers in metrics.items()}

    def _liveness(self, kept: Kept, fired: dict[str, list[Tensor]]) -> dict[str, dict[str, float]]:
        """Shares of dead, dying and revived units; `fired` is the history so far, of bool[units], and is extended."""
        revived: dict[str, list[Tensor]] = defaultdict(list)
        for batch in kept.batches:
            for row, outputs in batch.items():
                past, now = fired[row], (torch.cat(outputs) > 0).any(dim=0)
                silent, lived = ~any_of(past[-WINDOW:], now), any_of(past, now)
                revived[row].append(now & silent & lived)
                past.append(now)
        shares = {}
        for row, masks in revived.items():
            dead = ~any_of(fired[row][-WINDOW:], masks[0])
            dying = ~fired[row][-1] & ~dead
            units = {"dead_fraction": dead, "dying_fraction": dying, "revived_fraction": any_of(masks, dead)}
            rectifies = issubclass(self.kinds[row], RECTIFIERS)
            shares[row] = {name: float(mask.double().mean()) for name, mask in units.items()} if rectifies else {}
        return shares


OUTPUTS = (
    "act_mean",
    "act_var",
    "zero_fraction",
    "saturated_fraction",
    "dead_fraction",
    "dying_fraction",
    "revived_fraction",
)


def gradients(module: nn.Module, optimizer: Optimizer, scale: float = 1) -> Gradients:
    """The gradients of the parameters of `optimizer` as they are now, divided by `scale`."""
    named = list(owned(module, optimizer))
    tensors = {name: wide(p.grad) / scale for name, p in named if p.grad is not None}
    return Gradients(tensors, {name for name, p in named if p.requires_grad and p.numel()})


def values(module: nn.Module, optimizer: Optimizer) -> Tensors:
    """The trainable parameters of `optimizer` as they are now."""
    return {name: wide(p) for name, p in owned(module, optimizer) if p.requires_grad}


def owned(module: nn.Module, optimizer: Optimizer) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters of `optimizer` with their names in `module`; those outside of it under numbers."""
    names = {id(p): name for name, p in module.named_parameters()}
    mine = [p for group in optimizer.param_groups for p in group["params"] if not is_lazy(p)]
    return ((names.get(id(p), f"{OUTSIDE}.{i}"), p) for i, p in enumerate(mine))


def wide(t: Tensor) -> Tensor:
    """A copy of all elements in double precision."""
    t = t.detach().to_dense() if t.is_sparse else t.detach()
    return t.to(torch.complex128 if t.is_complex() else torch.float64, copy=True)


def norms(parts: Iterable[Tensors]) -> dict[str, float]:
    """Layer → the L2 norm of all its tensors."""
    squares: dict[str, float] = defaultdict(float)
    for tensors in parts:
        for name, tensor in tensors.items():
            squares[layer_of(name)] += float(tensor.abs().square().sum())
    return {layer: math.sqrt(square) for layer, square in squares.items()}


def missing(parts: Iterable[Gradients]) -> dict[str, float]:
    """Layer → the share of its trainable parameters that have no gradient, or one of zeros alone."""
    shares: dict[str, list[bool]] = defaultdict(list)
    for part in parts:
        for name in part.trainable:
            shares[layer_of(name)].append(name not in part.tensors or not bool((part.tensors[name] != 0).any()))
    return {layer: sum(flags) / len(flags) for layer, flags in shares.items()}


def measure(kind: type[nn.Module], outputs: Tensor) -> dict[str, float]:
    """What is to be measured of all outputs of an activation."""
    found = {"act_mean": float(outputs.mean()), "act_var": float(outputs.var(correction=0))}
    if issubclass(kind, RECTIFIERS):
        found["zero_fraction"] = math.nan if outputs.isnan().any() else float((outputs == 0).double().mean())
    if kind in LIMITS:
        low, high = LIMITS[kind]
        edge = 0.01 * (high - low)
        found["saturated_fraction"] = float(((outputs <= low + edge) | (outputs >= high - edge)).double().mean())
    return found


def joined(batches: Iterable[dict[str, list[Tensor]]]) -> dict[str, Tensor]:
    """Row → all its outputs in `batches`."""
    outputs: dict[str, list[Tensor]] = defaultdict(list)
    for batch in batches:
        for row, parts in batch.items():
            outputs[row] += [part.flatten() for part in parts]
    return {row: torch.cat(parts) for row, parts in outputs.items()}


def any_of(masks: Iterable[Tensor], like: Tensor) -> Tensor:
    """Where any of `masks` is set: nowhere if there is none."""
    return torch.stack([torch.zeros_like(like), *masks]).any(dim=0)


def layer_of(parameter: str) -> str:
    return parameter.rpartition(".")[0] or "(root)"


def loss_scale(trainer: pl.Trainer) -> float | None:
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return float(scaler.get_scale()) if scaler is not None and scaler.is_enabled() else None


def _globals(kept: Kept) -> dict[str, float]:
    found: dict[str, float] = {}
    if kept.losses:
        found["loss"] = sum(kept.losses) / len(kept.losses)
        found["nonfinite_loss"] = float(not math.isfinite(found["loss"]))
    if kept.scale is not None:
        found["loss_scale"] = kept.scale
    before = math.sqrt(sum(g.total() ** 2 for g in kept.before.values()))
    after = math.sqrt(sum(g.total() ** 2 for g in kept.after.values()))
    skipped = kept.before.keys() != kept.after.keys()
    if any(g.tensors for g in kept.before.values()):
        found |= {"total_norm": before, "skipped": float(skipped)}
        if not skipped:
            found["total_norm_clipped"] = after
            if before and math.isfinite(before):
                found["clip_coefficient"] = after / before
    return found
