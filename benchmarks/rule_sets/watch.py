"""What all rule sets stand on: one callback that watches a run from plain hooks, and tells them all of it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from zoo.modules import ZooModule
from zoo.scoring import Verdicts

Gradients = Mapping[str, Tensor | None]


class Progress(NamedTuple):
    """How far a run is: the steps that its optimizers have made, of all that they will make, and how it is clipped.

    `clip_value` is what Lightning clips gradients to, 0 for nothing, and `clips_norm` whether it clips their norm.
    """

    step: int
    of: int
    clip_value: float
    clips_norm: bool


class RuleSet:
    """Judges a run by what it is told of it: a subclass overrides what it wants to hear, and adds to `found`.

    `activations` are the types of modules whose inputs and outputs it wants to see; `layers` says whether it wants the
    outputs of modules with parameters of their own, and the gradients there; `accuracy` whether it wants that of each
    batch, which takes another forward.
    """

    activations: tuple[type[nn.Module], ...] = ()
    layers = False
    accuracy = False

    def __init__(self) -> None:
        self.found: set[tuple[str, str | None]] = set()

    def begin(self, module: nn.Module) -> None: ...

    def see_activation(self, name: str, module: nn.Module, before: Tensor, after: Tensor) -> None: ...

    def see_output(self, name: str, output: Tensor) -> None: ...

    def see_signal(self, name: str, gradient: Tensor) -> None: ...

    def see_gradients(self, gradients: Gradients, progress: Progress) -> None: ...

    def see_update(self, name: str, old: Tensor, new: Tensor) -> None: ...

    def end_batch(self, loss: float | None, accuracy: float | None, progress: Progress) -> None: ...

    def end(self) -> None:
        """Judge what can only be judged when the run is over."""

    def say(self, label: str, *layers: str | None) -> None:
        self.found |= {(label, layer) for layer in layers}


class Watch(pl.Callback):
    """Tells rule sets of a run, and keeps after which step each of them said what for the first time.

    Nothing of the run changes: the forward that tells the accuracy leaves random numbers and buffers as they were.
    """

    def __init__(self, rule_sets: Sequence[RuleSet]) -> None:
        self.rule_sets = rule_sets
        self.history: list[list[tuple[int, frozenset[str]]]] = [[] for _ in rule_sets]
        self.batches = 0
        self._listening = True
        self._weights: dict[str, Tensor] = {}
        self._step = 0

    def verdicts(self) -> list[Verdicts]:
        """Return what each rule set has found; after the fit."""
        for rule_set, history in zip(self.rule_sets, self.history, strict=True):
            rule_set.end()
            history.append((self.batches - 1, frozenset(label for label, _ in rule_set.found)))
        return [frozenset(rule_set.found) for rule_set in self.rule_sets]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for name, module in pl_module.named_modules():
            self._listen_to_activation(name, module)
            if next(module.children(), None) is None and next(module.parameters(recurse=False), None) is not None:
                self._listen_to_layer(name, module)
        for rule_set in self.rule_sets:
            rule_set.begin(pl_module)
        self._weights = _trainable(pl_module)
        self._step = trainer.global_step

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
        grads = {n: p.grad for n, p in pl_module.named_parameters() if p.requires_grad and id(p) in mine}
        for rule_set in self.rule_sets:
            rule_set.see_gradients(grads, _progress(trainer, self._step))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        outputs, batch = args[:2]
        loss = float(outputs["loss"]) if isinstance(outputs, dict) and "loss" in outputs else None
        if trainer.global_step != self._step:
            self._step = trainer.global_step
            self._see_updates(pl_module)
        accuracy = self._accuracy(pl_module, batch)
        for rule_set in self.rule_sets:
            rule_set.end_batch(loss, accuracy, _progress(trainer, self._step))
        for rule_set, history in zip(self.rule_sets, self.history, strict=True):
            history.append((self.batches, frozenset(label for label, _ in rule_set.found)))
        self.batches += 1

    def _listen_to_activation(self, name: str, module: nn.Module) -> None:
        listeners = [r for r in self.rule_sets if isinstance(module, r.activations)]
        inputs: list[Tensor] = []

        def keep(_: nn.Module, args: Any) -> None:
            inputs[:] = [args[0].detach().clone()]

        def tell(module: nn.Module, _: Any, output: Tensor) -> None:
            for rule_set in listeners if self._listening else ():
                rule_set.see_activation(name, module, inputs[0], output.detach())

        if listeners:
            module.register_forward_pre_hook(keep)
            module.register_forward_hook(tell)

    def _listen_to_layer(self, name: str, module: nn.Module) -> None:
        listeners = [r for r in self.rule_sets if r.layers]

        def tell_signal(gradient: Tensor) -> None:
            for rule_set in listeners:
                rule_set.see_signal(name, gradient.detach())

        def tell(_: nn.Module, args: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if self._listening and first.requires_grad:
                first.register_hook(tell_signal)
            if self._listening and isinstance(output, Tensor):
                for rule_set in listeners:
                    rule_set.see_output(name, output.detach())

        if listeners:
            module.register_forward_hook(tell)

    def _see_updates(self, module: nn.Module) -> None:
        new = _trainable(module)
        for name, weights in new.items():
            old, after = self._weights[name].double(), weights.double()
            for rule_set in self.rule_sets:
                rule_set.see_update(name, old, after)
        self._weights = new

    def _accuracy(self, module: pl.LightningModule, batch: Any) -> float | None:
        if not isinstance(module, ZooModule) or not any(r.accuracy for r in self.rule_sets):
            return None
        buffers = [buffer.clone() for buffer in module.buffers()]
        self._listening = False
        with torch.random.fork_rng(devices=[]):
            accuracy = module.accuracy(batch)
        self._listening = True
        for buffer, before in zip(module.buffers(), buffers, strict=True):
            buffer.copy_(before)
        return accuracy


def owner(parameter: str) -> str:
    """Return the module that a parameter of this name belongs to."""
    return parameter.rpartition(".")[0] or parameter


def share(condition: Tensor) -> float:
    """Return the share of elements that are true."""
    return condition.double().mean().item()


def is_finite(loss: float | None) -> bool:
    return loss is None or math.isfinite(loss)


def _progress(trainer: pl.Trainer, step: int) -> Progress:
    by_value = str(trainer.gradient_clip_algorithm).endswith("value")
    return Progress(step, trainer.max_steps, trainer.gradient_clip_val or 0.0, not by_value)


def _trainable(module: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in module.named_parameters() if p.requires_grad}
