"""Sigmoids and tanhs that sit at their limits."""

from collections.abc import Callable

from torch import nn

from zoo.case import Case, Cure, labels, numbered
from zoo.data import flat_mnist
from zoo.modules import DIGITS, Classifier, ZooModule, mlp, normal_init, sgd


def narrow_tanh_net() -> ZooModule:
    return Classifier(mlp([196, 12, 12, DIGITS], nn.Tanh), sgd(0.1))


TANH_RAW_PIXELS = Case(
    name="tanh_net_on_raw_pixels",
    why="pixels 0..255 drive the first tanh layer to +-1 on nearly all samples, where it cannot learn",
    make_module=narrow_tanh_net,
    make_loader=flat_mnist(seed=10, scaling="raw"),
    steps=300,
    seed=110,
    labels=labels("saturated_activation"),
    guilty={"saturated_activation": (("net.fc1", "net.act1"),)},
    also_true=labels("vanishing_gradient", "update_ratio_high"),
    cure=Cure("standardised pixels", make_loader=flat_mnist(seed=10)),
)


def narrow_sigmoid_net(std: float | None) -> Callable[[], ZooModule]:
    init = None if std is None else normal_init(std)
    return lambda: Classifier(mlp([196, 10, 10, DIGITS], nn.Sigmoid, init, init_head=False), sgd(1.0, momentum=0.9))


SIGMOID_HUGE_INIT = Case(
    name="sigmoid_net_weights_from_n_0_8",
    why="weights drawn with std 8 in place of 0.08 pin both sigmoid layers to 0 or 1",
    make_module=narrow_sigmoid_net(8.0),
    make_loader=flat_mnist(seed=19),
    steps=300,
    seed=119,
    labels=labels("saturated_activation"),
    guilty={"saturated_activation": numbered("net.fc{}", "net.act{}", upto=2)},
    also_true=labels("update_ratio_high"),
    cure=Cure("default init", make_module=narrow_sigmoid_net(None)),
)
