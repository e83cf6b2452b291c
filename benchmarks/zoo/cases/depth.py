"""Gradients that vanish or explode on their way back through layers or time steps."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from zoo import data
from zoo.case import Case, Cure, labels, numbered
from zoo.data import flat_mnist
from zoo.modules import (
    DIGITS,
    Classifier,
    Init,
    LabelledModule,
    ZooModule,
    adam,
    kaiming_init,
    mlp,
    normal_init,
    orthogonal_init,
    sgd,
)


def ten_layers(activation: Callable[[], nn.Module], init: Init | None = None) -> Callable[[], ZooModule]:
    return lambda: Classifier(mlp([196, *[64] * 9, DIGITS], activation, init), sgd(0.1, momentum=0.9))


SIGMOID_MLP = Case(
    name="sigmoid_mlp_10_layers",
    why="nine sigmoids in a row: each multiplies the error signal by at most 1/4 times a small weight",
    make_module=ten_layers(nn.Sigmoid),
    make_loader=flat_mnist(seed=1),
    steps=200,
    seed=101,
    labels=labels("vanishing_gradient"),
    guilty={"vanishing_gradient": numbered("net.fc{}", "net.act{}", upto=6)},
    also_true=labels("uneven_learning_speed", "update_ratio_low"),
    cure=Cure("tanh in place of sigmoid", make_module=ten_layers(nn.Tanh, orthogonal_init())),
)


def fifty_tanh_layers(init: Init) -> Callable[[], ZooModule]:
    return lambda: Classifier(mlp([196, *[32] * 50, DIGITS], nn.Tanh, init), sgd(0.005, momentum=0.9))


TANH_TINY_INIT = Case(
    name="tanh_50_layers_tiny_init",
    why="weights of std 0.02 shrink the activations on the way up and the error signal on the way down",
    make_module=fifty_tanh_layers(normal_init(0.02)),
    make_loader=flat_mnist(seed=2),
    steps=150,
    seed=102,
    labels=labels("vanishing_gradient"),
    also_true=labels("uneven_learning_speed", "update_ratio_low", "no_gradient"),  # float32 underflows to 0
    cure=Cure("orthogonal init with gain 1.1", make_module=fifty_tanh_layers(orthogonal_init(1.1))),
)


class RowRNN(LabelledModule):
    """Reads an image row by row with a ReLU RNN; the last state feeds the head."""

    def __init__(self, recurrent_gain: float, size: int = 28, hidden: int = 48) -> None:
        super().__init__(sgd(0.01))
        rnn: Any = nn.RNN(size, hidden, nonlinearity="relu", batch_first=True)
        self.rnn = rnn
        self.head = nn.Linear(hidden, DIGITS)
        nn.init.eye_(rnn.weight_hh_l0)
        rnn.weight_hh_l0.data.mul_(recurrent_gain)
        nn.init.normal_(rnn.weight_ih_l0, std=0.05)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.rnn(x)[0][:, -1])


RNN_EXPLODING = Case(
    name="relu_rnn_spectral_radius_above_one",
    why="the recurrent matrix is 1.5 times the identity, so 28 time steps multiply state and gradient by 8e4",
    make_module=lambda: RowRNN(1.5),
    make_loader=lambda: data.loader(data.mnist_rows(2048), seed=3),
    steps=200,
    seed=103,
    labels=labels("exploding_gradient", "non_finite"),
    also_true=labels("update_ratio_high", "uneven_learning_speed"),
    cure=Cure("the identity itself (IRNN)", make_module=lambda: RowRNN(1.0)),
)


def twelve_relu_layers(gain: float) -> Callable[[], ZooModule]:
    return lambda: Classifier(mlp([196, *[64] * 12, DIGITS], nn.ReLU, kaiming_init(gain=gain)), sgd(0.01))


RELU_LARGE_INIT = Case(
    name="relu_mlp_12_layers_init_too_large",
    why="weights 3 times the Kaiming size: activations and gradients grow threefold per layer",
    make_module=twelve_relu_layers(3.0),
    make_loader=flat_mnist(seed=4),
    steps=150,
    seed=104,
    labels=labels("exploding_gradient", "non_finite"),
    also_true=labels("update_ratio_high", "dead_relu", "uneven_learning_speed"),
    cure=Cure("Kaiming init as it is", make_module=twelve_relu_layers(1.0)),
)


def thirty_tanh_layers(gain: float) -> Callable[[], ZooModule]:
    return lambda: Classifier(mlp([196, *[48] * 30, DIGITS], nn.Tanh, orthogonal_init(gain)), adam(3e-4))


TANH_CHAOS = Case(
    name="tanh_30_layers_chaotic_init",
    why="orthogonal weights with gain 3: tanh keeps the activations bounded, but the gradient grows per layer",
    make_module=thirty_tanh_layers(3.0),
    make_loader=flat_mnist(seed=36),
    steps=200,
    seed=136,
    labels=labels("exploding_gradient"),
    guilty={"exploding_gradient": numbered("net.fc{}", "net.act{}", upto=5)},
    tolerated={"exploding_gradient": numbered("net.fc{}", "net.act{}", start=6, upto=25)},
    also_true=labels("uneven_learning_speed", "saturated_activation"),
    cure=Cure("gain 1.1", make_module=thirty_tanh_layers(1.1)),
)
