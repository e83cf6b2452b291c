"""NaN and infinity."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import data
from zoo.case import Case, Cure, labels
from zoo.data import Loader
from zoo.modules import DIGITS, LabelledModule, ZooModule, adam, mlp, sgd


class Entropy(nn.Module):
    """-sum p log p, wrong where p is exactly 0."""

    def __init__(self, safe: bool) -> None:
        super().__init__()
        self.safe = safe

    def forward(self, p: Tensor) -> Any:
        logs = p.clamp_min(1e-12).log() if self.safe else p.log()
        return -(p * logs).sum(-1)


class GatedExperts(ZooModule):
    """Soft mixture of experts with an entropy bonus on the gate."""

    def __init__(self, safe_entropy: bool) -> None:
        super().__init__(adam(1e-3))
        self.gate = nn.Linear(20, 4)
        self.softmax = nn.Softmax(dim=-1)
        self.entropy = Entropy(safe_entropy)
        self.experts = nn.ModuleList(mlp([20, 16, 3], nn.Tanh) for _ in range(4))

    def compute_loss(self, batch: Any) -> Tensor:
        x, y = batch
        p = self.softmax(self.gate(x))
        logits = sum(p[:, i : i + 1] * expert(x) for i, expert in enumerate(self.experts))
        entropy: Tensor = self.entropy(p).mean()
        return F.cross_entropy(logits, y) - 0.01 * entropy


def experts_data_with_outlier() -> Loader:
    dataset = data.teacher_classes(64 * 120, 20, 3, seed=17)
    dataset.tensors[0][64 * 70 + 5] *= 2000.0  # one outlier, met at step 70
    return data.loader(dataset, batch_size=64, shuffle=False)


NAN_LOG_ZERO = Case(
    name="nan_from_log_zero_midrun",
    why="at step 70 an outlier makes a softmax weight exactly 0, and 0 * log 0 = NaN in the entropy bonus",
    make_module=lambda: GatedExperts(safe_entropy=False),
    make_loader=experts_data_with_outlier,
    steps=120,
    seed=117,
    onset=70,
    labels=labels("non_finite"),
    guilty={"non_finite": (("entropy",),)},
    cure=Cure("log of p clamped at 1e-12", make_module=lambda: GatedExperts(safe_entropy=True)),
)


class Energy(nn.Module):
    """Sum of squares over all features: up to 65504 in half precision."""

    def __init__(self, mean: bool) -> None:
        super().__init__()
        self.mean = mean

    def forward(self, x: Tensor) -> Any:
        return (x * x).mean(1, keepdim=True) if self.mean else (x * x).sum(1, keepdim=True)


class EnergyNet(LabelledModule):
    """A small MLP on pixels plus one loudness feature, the log of their energy."""

    def __init__(self, mean: bool) -> None:
        super().__init__(sgd(0.05))
        self.energy = Energy(mean)
        self.net: Any = mlp([197, 64, DIGITS], nn.GELU)

    def forward(self, x: Tensor) -> Any:
        x = x.to(self.net.fc1.weight.dtype)
        return self.net(torch.cat([x / LOUDNESS, self.energy(x).log()], 1)).float()


LOUDNESS = 13.0


def loud_pixels() -> Loader:
    dataset = data.mnist(2048, 14, "standard", flat=True)
    dataset.tensors[0].mul_(LOUDNESS)
    return data.loader(dataset, seed=18)


FP16_OVERFLOW = Case(
    name="inf_from_sum_of_squares_in_fp16",
    why="for one sample in 80 the 196 squared pixels sum up to more than 65504, the largest float16 number",
    make_module=lambda: EnergyNet(mean=False),
    make_loader=loud_pixels,
    steps=120,
    seed=118,
    make_trainer_kwargs=lambda: {"precision": "16-true"},
    labels=labels("non_finite"),
    guilty={"non_finite": (("energy",),)},
    cure=Cure("mean of squares", make_module=lambda: EnergyNet(mean=True)),
)
