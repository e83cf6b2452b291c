"""Layers that no gradient reaches."""

from collections import OrderedDict
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.case import Case, Cure, labels
from zoo.data import flat_mnist, mnist_images
from zoo.modules import DIGITS, LabelledModule, adam, mlp


class SkipProjectionNet(LabelledModule):
    """A two-branch net. With use_skip=False somebody forgot to add the second branch."""

    def __init__(self, use_skip: bool) -> None:
        super().__init__(adam(1e-3))
        self.main = mlp([196, 32, 32], nn.ReLU)
        self.skip = nn.Linear(196, 32)
        self.head = nn.Linear(32, DIGITS)
        self.use_skip = use_skip

    def forward(self, x: Tensor) -> Any:
        h = self.main(x)
        if self.use_skip:
            h = h + self.skip(x)
        return self.head(F.gelu(h))


UNUSED_LAYER = Case(
    name="skip_projection_never_called",
    why="the layer `skip` is built and optimized but forward() forgets it: its gradient is always None",
    make_module=lambda: SkipProjectionNet(use_skip=False),
    make_loader=flat_mnist(seed=12),
    steps=150,
    seed=112,
    labels=labels("no_gradient"),
    guilty={"no_gradient": (("skip",),)},
    also_true=labels("update_ratio_low", "uneven_learning_speed"),
    cure=Cure("skip is used", make_module=lambda: SkipProjectionNet(use_skip=True)),
)


class EncoderHead(LabelledModule):
    def __init__(self, detach: bool) -> None:
        super().__init__(adam(1e-2))
        self.encoder = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(1, 8, 3, stride=2, padding=1),
                act1=nn.GELU(),
                conv2=nn.Conv2d(8, 16, 3, stride=2, padding=1),
                act2=nn.GELU(),
                pool=nn.AdaptiveAvgPool2d(1),
            )
        )
        self.head = nn.Linear(16, DIGITS)
        self.detach = detach

    def forward(self, x: Tensor) -> Any:
        z = self.encoder(x).flatten(1)
        return self.head(z.detach() if self.detach else z)


DETACHED_ENCODER = Case(
    name="encoder_output_detached",
    why="a left-over .detach() between encoder and head: the encoder is trainable but gets no gradient",
    make_module=lambda: EncoderHead(detach=True),
    make_loader=mnist_images(seed=13, size=28),
    steps=250,
    seed=113,
    labels=labels("no_gradient"),
    guilty={"no_gradient": (("encoder.conv1", "encoder"), ("encoder.conv2", "encoder"))},
    also_true=labels("vanishing_gradient", "update_ratio_low", "uneven_learning_speed"),
    cure=Cure("no detach", make_module=lambda: EncoderHead(detach=False)),
)
