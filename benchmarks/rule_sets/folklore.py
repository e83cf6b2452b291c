"""Round-number thresholds as tutorials give them: what one would write in an afternoon."""

import math

import torch
from torch import Tensor, nn

from rule_sets.watch import Gradients, Progress, RuleSet, is_finite, owner, share

HALF = 0.5
PLAIN_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d)


class Folklore(RuleSet):
    """Judges every step."""

    activations = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.SELU)

    def __init__(self) -> None:
        super().__init__()
        self.clips: list[bool] = []

    def begin(self, module: nn.Module) -> None:
        modules = dict(module.named_modules())
        if not any(isinstance(m, nn.SELU) for m in modules.values()):
            return
        for name, m in modules.items():
            if type(m) in PLAIN_DROPOUTS:
                self.say("selu_misconfigured", name)
            if isinstance(m, nn.Linear | nn.Conv2d):
                gain = m.weight.std().item() * math.sqrt(m.weight[0].numel())
                if not 0.8 <= gain <= 1.25:
                    self.say("selu_misconfigured", name)

    def see_activation(self, name: str, module: nn.Module, before: Tensor, after: Tensor) -> None:
        if isinstance(module, nn.ReLU) and share(after == 0) > HALF:
            self.say("dead_relu", name)
        if isinstance(module, nn.Tanh) and share(after.abs() > 0.99) > HALF:
            self.say("saturated_activation", name)
        if isinstance(module, nn.Sigmoid) and share((after < 0.01) | (after > 0.99)) > HALF:
            self.say("saturated_activation", name)
        if isinstance(module, nn.SELU):
            mean, variance = after.double().mean().item(), after.double().var().item()
            if abs(mean) > 0.1 or not 0.8 <= variance <= 1.5:
                self.say("selu_drift", name)
        if not torch.isfinite(after).all():
            self.say("non_finite", name)

    def see_gradients(self, gradients: Gradients, progress: Progress) -> None:
        norms: dict[str, float] = {}
        for name, g in gradients.items():
            if g is None or not g.any():
                self.say("no_gradient", owner(name))
            elif not torch.isfinite(g).all():
                self.say("non_finite", owner(name))
            else:
                norms[name] = g.double().norm().item()
        self.say("vanishing_gradient", *(owner(name) for name, norm in norms.items() if norm < 1e-5))
        self.say("exploding_gradient", *(owner(name) for name, norm in norms.items() if norm > 100))
        if norms and max(norms.values()) > 1e3 * min(norms.values()):
            self.say("uneven_learning_speed", owner(min(norms, key=lambda name: norms[name])))
        if progress.clip_value:
            self.clips.append(_is_clipped(gradients, norms, progress))

    def see_update(self, name: str, old: Tensor, new: Tensor) -> None:
        if old.dim() < 2 or not old.norm():
            return
        ratio = ((new - old).norm() / old.norm()).item()
        if ratio > 1e-1:
            self.say("update_ratio_high", owner(name))
        if ratio < 1e-6:
            self.say("update_ratio_low", owner(name))

    def end_batch(self, loss: float | None, accuracy: float | None, progress: Progress) -> None:
        if not is_finite(loss):
            self.say("non_finite", None)

    def end(self) -> None:
        if self.clips and sum(self.clips) > HALF * len(self.clips):
            self.say("clipping_dominates", None)


def _is_clipped(gradients: Gradients, norms: dict[str, float], progress: Progress) -> bool:
    if progress.clips_norm:
        return math.sqrt(sum(n * n for n in norms.values())) > progress.clip_value
    return any(bool(g.abs().max() > progress.clip_value) for g in gradients.values() if g is not None)
