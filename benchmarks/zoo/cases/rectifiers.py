"""ReLUs that are dead from the start, or die on the way."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from zoo.case import Case, Cure, labels, numbered
from zoo.data import flat_mnist, mnist_images
from zoo.modules import (
    DIGITS,
    Classifier,
    SmallConvNet,
    ZooModule,
    adam,
    kaiming_init,
    mlp,
    sgd,
    with_schedule,
)


def three_relu_layers(dead_units: int) -> Callable[[], ZooModule]:
    def make() -> ZooModule:
        net: Any = mlp([196, 64, 64, 64, DIGITS], nn.ReLU, kaiming_init())
        with torch.no_grad():
            net.fc2.bias[:dead_units] = -30.0
        return Classifier(net, sgd(0.05))

    return make


RELU_NEGATIVE_BIAS = Case(
    name="relu_negative_bias_one_layer",
    why="48 of 64 units of the second layer start with bias -30 and can never fire, hence never learn",
    make_module=three_relu_layers(dead_units=48),
    make_loader=flat_mnist(seed=5),
    steps=200,
    seed=105,
    labels=labels("dead_relu"),
    guilty={"dead_relu": (("net.fc2", "net.act2"),)},
    cure=Cure("zero bias", make_module=three_relu_layers(dead_units=0)),
)


def relu_net_with_lr_spike(height: float) -> Callable[[], ZooModule]:
    return lambda: Classifier(
        mlp([196, 64, 64, 64, DIGITS], nn.ReLU, kaiming_init()),
        with_schedule(adam(1e-3), lambda step: height if 80 <= step < 84 else 1.0),
    )


RELU_KILLED_MIDWAY = Case(
    name="relu_killed_by_lr_spike_midway",
    why="healthy for 80 steps, then four steps at 300 times the learning rate knock the ReLUs out for good",
    make_module=relu_net_with_lr_spike(300.0),
    make_loader=flat_mnist(seed=6),
    steps=200,
    seed=106,
    onset=80,
    labels=labels("dead_relu"),
    guilty={"dead_relu": (("net.fc1", "net.act1"),)},
    tolerated={"dead_relu": numbered("net.fc{}", "net.act{}", start=2, upto=3)},
    also_true=labels("update_ratio_high", "exploding_gradient"),
    cure=Cure("no spike", make_module=relu_net_with_lr_spike(1.0)),
)


CONV_PRIOR_BIAS = Case(
    name="conv_prior_bias_on_wrong_layer",
    why="the focal-loss prior bias, log(0.01/0.99) = -4.6, went to a hidden conv in place of the head",
    make_module=lambda: Classifier(SmallConvNet(conv2_bias=-4.6), sgd(0.05)),
    make_loader=mnist_images(seed=7),
    steps=150,
    seed=107,
    labels=labels("dead_relu"),
    guilty={"dead_relu": (("net.conv2", "net.relu2"),)},
    also_true=labels("no_gradient", "vanishing_gradient", "update_ratio_low", "uneven_learning_speed"),
    cure=Cure("zero bias", make_module=lambda: Classifier(SmallConvNet(), sgd(0.05))),
)
