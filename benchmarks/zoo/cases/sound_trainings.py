"""Sound runs whose training tempts a naive rule: converged, warming up, frozen, rounded, clipped now and then."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import data
from zoo.case import Case
from zoo.data import Loader, flat_mnist, mnist_images
from zoo.modules import (
    DIGITS,
    Classifier,
    LabelledModule,
    SmallConvNet,
    ZooModule,
    adam,
    kaiming_init,
    mlp,
    sgd,
    with_schedule,
)


def converged_net() -> ZooModule:
    """A net trained to a tiny loss before the run even starts."""
    x, y = data.mnist(512, 14, flat=True).tensors
    net: Any = mlp([196, 64, 64, DIGITS], nn.GELU)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(400):
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(net(x), y))
        optimizer.step()
    return Classifier(net, sgd(1e-2))


CONVERGED = Case(
    name="resumed_after_convergence",
    why="the loss is already near zero, so gradients and updates are tiny: nothing is left to learn",
    make_module=converged_net,
    make_loader=flat_mnist(seed=25, n=512),
    steps=150,
    seed=125,
    learns_to=2e-3,
)

WARMUP = Case(
    name="linear_lr_warmup_from_zero",
    why="the learning rate climbs from exactly 0 over 150 steps; early updates are tiny on purpose",
    make_module=lambda: Classifier(
        mlp([196, 128, 64, DIGITS], nn.ReLU, kaiming_init()),
        with_schedule(adam(2e-3), lambda step: min(1.0, step / 150)),
    ),
    make_loader=flat_mnist(seed=26),
    steps=250,
    seed=126,
    learns_to=0.25,
)

BF16_CONV = Case(
    name="conv_net_bf16_autocast",
    why="bfloat16 autocast rounds the gradients coarsely; training does not mind",
    make_module=lambda: Classifier(SmallConvNet(), sgd(0.05, momentum=0.9)),
    make_loader=mnist_images(seed=27),
    steps=150,
    seed=127,
    make_trainer_kwargs=lambda: {"precision": "bf16-mixed"},
    learns_to=0.4,
)


def frozen_backbone_net() -> ZooModule:
    """Fine-tunes a new head on a backbone which was trained on the other digits and frozen on purpose."""
    x, y = data.mnist_tensors(2048, 14)
    net: Any = SmallConvNet()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    keep = y < 5
    for i in range(150):
        batch = torch.arange(i * 64, (i + 1) * 64) % int(keep.sum())
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(net(x[keep][batch]), y[keep][batch]))
        optimizer.step()
    for p in [*net.conv1.parameters(), *net.conv2.parameters()]:
        p.requires_grad_(False)
    net.head = nn.Linear(32 * 9, DIGITS)
    return Classifier(net, adam(4e-3))


FROZEN_BACKBONE = Case(
    name="fine_tuning_with_frozen_backbone",
    why="the convolutions have requires_grad=False on purpose; only the new head is trained",
    make_module=frozen_backbone_net,
    make_loader=mnist_images(seed=28),
    steps=250,
    seed=128,
    learns_to=0.6,
)


class RowLSTM(LabelledModule):
    def __init__(self) -> None:
        super().__init__(adam(5e-3))
        self.lstm = nn.LSTM(28, 48, batch_first=True)
        self.head = nn.Linear(48, DIGITS)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.lstm(x)[0][:, -1])


LSTM_RARELY_CLIPPED = Case(
    name="lstm_with_rare_clipping",
    why="gradient clipping as a safety net: it acts on a few steps only",
    make_module=RowLSTM,
    make_loader=lambda: data.loader(data.mnist_rows(2048), seed=32),
    steps=200,
    seed=132,
    make_trainer_kwargs=lambda: {"gradient_clip_val": 2.5},
    learns_to=0.5,
)


def gelu_net_with_zero_head() -> ZooModule:
    net: Any = mlp([196, 64, 64, DIGITS], nn.GELU)
    nn.init.zeros_(net.head.weight)
    nn.init.zeros_(net.head.bias)
    return Classifier(net, adam(2e-3))


ZERO_HEAD = Case(
    name="gelu_mlp_zero_initialised_head",
    why="a zero head gives all other layers exactly zero gradient at step 0, and itself an infinite update ratio",
    make_module=gelu_net_with_zero_head,
    make_loader=flat_mnist(seed=34),
    steps=200,
    seed=134,
    learns_to=0.3,
)


class TwoTasks(ZooModule):
    """Each batch belongs to one task; the other head then gets no gradient at all."""

    def __init__(self) -> None:
        super().__init__(adam(2e-3))
        self.trunk = mlp([196, 64, 48], nn.Tanh)
        self.digit_head = nn.Linear(48, DIGITS)
        self.ink_head = nn.Linear(48, 1)

    def compute_loss(self, batch: Any) -> Tensor:
        x, y, is_ink = batch
        h = torch.tanh(self.trunk(x))
        if bool(is_ink[0]):
            return F.mse_loss(self.ink_head(h).squeeze(1), x.mean(1) * 3)
        return F.cross_entropy(self.digit_head(h), y)


def alternating_tasks() -> Loader:
    x, y = data.mnist(2048, 14, flat=True).tensors
    is_ink = (torch.arange(2048) // 64) % 4 == 3  # every fourth batch of 64
    return data.loader(torch.utils.data.TensorDataset(x, y, is_ink), batch_size=64, shuffle=False)


ALTERNATING_HEADS = Case(
    name="two_tasks_one_head_idle_at_times",
    why="the ink head is used in every fourth batch only; its gradient is None in the others",
    make_module=TwoTasks,
    make_loader=alternating_tasks,
    steps=250,
    seed=135,
    learns_to=0.3,
)
