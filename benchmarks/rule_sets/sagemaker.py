"""The built-in rules of Amazon SageMaker Debugger, at their documented defaults."""

import torch
from torch import Tensor, nn

from rule_sets.watch import Gradients, Progress, RuleSet, is_finite, owner, share

VANISHING = 1e-7
"""`VanishingGradient`: mean of the absolute values of a gradient."""

INACTIVITY, OF_A_LAYER = 1.0, 50.0
"""`DeadRelu` and `SaturatedActivation`, in per cent: a unit is inactive that is active for fewer of the samples, and a
layer is sick that has more inactive units."""

TANH, SIGMOID = (-9.4999, 9.4999), (-23.0, 16.99999)
"""`SaturatedActivation`: inputs between which the activation is active."""

LARGE_UPDATE, SMALL_UPDATE, EPSILON = 10.0, 1e-8, 1e-9
"""`WeightUpdateRatio`: mean of the absolute changes over that of the absolute weights."""


class SageMaker(RuleSet):
    """Judges every step, by the wording of the developer guide: the code of the rules is not public."""

    activations = (nn.ReLU, nn.Tanh, nn.Sigmoid)

    def see_activation(self, name: str, module: nn.Module, before: Tensor, after: Tensor) -> None:
        if not torch.isfinite(after).all():  # `ExplodingTensor`
            self.say("non_finite", name)
            return
        if isinstance(module, nn.ReLU):
            label, active = "dead_relu", _by_unit(after) != 0
        else:
            low, high = TANH if isinstance(module, nn.Tanh) else SIGMOID
            inputs = _by_unit(before)
            label, active = "saturated_activation", (inputs > low) & (inputs < high)
        if 100 * share(100 * active.double().mean(0) < INACTIVITY) > OF_A_LAYER:
            self.say(label, name)

    def see_gradients(self, gradients: Gradients, progress: Progress) -> None:
        for name, g in gradients.items():
            if g is None:
                continue  # no tensor, nothing to judge
            if not torch.isfinite(g).all():  # `ExplodingTensor`
                self.say("non_finite", owner(name))
                self.say("exploding_gradient", owner(name))
            elif g.abs().double().mean().item() < VANISHING:
                self.say("vanishing_gradient", owner(name))
            if share(g == 0) == 1:  # `AllZero`
                self.say("no_gradient", owner(name))

    def see_update(self, name: str, old: Tensor, new: Tensor) -> None:
        if "weight" in name:  # biases are a collection of their own
            ratio = (new - old).abs().mean().item() / (old.abs().mean().item() + EPSILON)
            if ratio > LARGE_UPDATE:
                self.say("update_ratio_high", owner(name))
            elif ratio < SMALL_UPDATE:
                self.say("update_ratio_low", owner(name))
        if not torch.isfinite(new).all():
            self.say("non_finite", owner(name))

    def end_batch(self, loss: float | None, accuracy: float | None, progress: Progress) -> None:
        if not is_finite(loss):
            self.say("non_finite", None)


def _by_unit(t: Tensor) -> Tensor:
    """Return values by units: channels of a 4-d tensor, else the last axis."""
    t = t.movedim(1, -1) if t.dim() == 4 else t
    return t.reshape(-1, t.shape[-1]) if t.dim() > 1 else t.reshape(-1, 1)
