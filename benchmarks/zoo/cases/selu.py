"""SELU nets, two that do not normalise themselves and one that does."""

from collections.abc import Callable

from torch import nn

from zoo import data
from zoo.case import Case, Cure, labels
from zoo.data import flat_mnist
from zoo.modules import DIGITS, Classifier, Init, ZooModule, lecun_normal, mlp, sgd


def selu_net(
    depth: int, init: Init | None, dropout: Callable[[], nn.Module] | None = None, n_in: int = 196, n_out: int = DIGITS
) -> Callable[[], ZooModule]:
    return lambda: Classifier(mlp([n_in, *[64] * depth, n_out], nn.SELU, init, dropout), sgd(0.01))


SELU_DEFAULT_INIT = Case(
    name="selu_mlp_16_layers_pytorch_default_init",
    why="nn.Linear's default has a third of the variance SELU needs, so activations collapse with depth",
    make_module=selu_net(16, init=None),
    make_loader=flat_mnist(seed=8),
    steps=250,
    seed=108,
    labels=labels("selu_misconfigured", "selu_drift"),
    cure=Cure("LeCun normal init", make_module=selu_net(16, lecun_normal)),
)

SELU_PLAIN_DROPOUT = Case(
    name="selu_mlp_plain_dropout",
    why="plain Dropout(0.5) sets units to 0 and doubles the rest, which breaks SELU's fixed point",
    make_module=selu_net(6, lecun_normal, lambda: nn.Dropout(0.5)),
    make_loader=flat_mnist(seed=9),
    steps=250,
    seed=109,
    labels=labels("selu_misconfigured", "selu_drift"),
    cure=Cure("AlphaDropout(0.05)", make_module=selu_net(6, lecun_normal, lambda: nn.AlphaDropout(0.05))),
)


SELU_SOUND = Case(
    name="selu_mlp_lecun_alpha_dropout",
    why="SELU as the paper wants it: LeCun normal weights (here spelled kaiming 'linear') and AlphaDropout",
    make_module=selu_net(8, lecun_normal, lambda: nn.AlphaDropout(0.05), n_in=32, n_out=4),
    make_loader=lambda: data.loader(data.teacher_classes(4096, 32, 4, seed=30), seed=30),
    steps=300,
    seed=130,
    learns_to=0.9,
)
