"""Learning rates and clipping: layers that learn at wrong speeds, or not at all."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from zoo import data
from zoo.case import Case, Cure, labels
from zoo.data import flat_mnist, mnist_images
from zoo.modules import DIGITS, Classifier, LabelledModule, SmallConvNet, ZooModule, adam, gelu_net, mlp, sgd


def net_with_layerwise_lrs(decay: float) -> Callable[[], ZooModule]:
    def make_optimizer(module: Any) -> torch.optim.Optimizer:
        layers = [module.net.head, module.net.fc4, module.net.fc3, module.net.fc2, module.net.fc1]
        groups = [{"params": layer.parameters(), "lr": 0.1 * decay**i} for i, layer in enumerate(layers)]
        return torch.optim.SGD(groups, lr=0.1, momentum=0.9)

    return lambda: Classifier(mlp([196, 3, 32, 32, 32, DIGITS], nn.Tanh), make_optimizer)


STEEP_LR_DECAY = Case(
    name="layerwise_lr_decay_too_steep",
    why="each layer below the head gets a fiftieth of the lr above it; the bottleneck fc1 stays random",
    make_module=net_with_layerwise_lrs(0.02),
    make_loader=flat_mnist(seed=20),
    steps=250,
    seed=120,
    labels=labels("uneven_learning_speed"),
    guilty={"uneven_learning_speed": (("net.fc1",), ("net.fc2",))},
    tolerated={"uneven_learning_speed": (("net.fc3",),)},
    also_true=labels("update_ratio_low"),
    cure=Cure("one lr for all layers", make_module=net_with_layerwise_lrs(1.0)),
)


def conv_net_with_group_lrs(backbone_lr: float, head_lr: float) -> Callable[[], ZooModule]:
    def make_optimizer(module: Any) -> torch.optim.Optimizer:
        net = module.net
        return torch.optim.Adam(
            [
                {"params": [*net.conv1.parameters(), *net.conv2.parameters()], "lr": backbone_lr},
                {"params": net.head.parameters(), "lr": head_lr},
            ]
        )

    def make() -> ZooModule:
        net: Any = SmallConvNet()
        net.pool2 = nn.AdaptiveAvgPool2d(1)
        net.head = nn.Linear(32, DIGITS)
        return Classifier(net, make_optimizer)

    return make


LR_TYPO = Case(
    name="param_group_lr_typo",
    why="the backbone's group has lr 3e-9 where 3e-3 was meant; only the head learns",
    make_module=conv_net_with_group_lrs(3e-9, 3e-3),
    make_loader=mnist_images(seed=11),
    steps=250,
    seed=111,
    labels=labels("uneven_learning_speed"),
    guilty={"uneven_learning_speed": (("net.conv1",), ("net.conv2",))},
    also_true=labels("update_ratio_low"),
    cure=Cure("lr 3e-3 for both groups", make_module=conv_net_with_group_lrs(3e-3, 3e-3)),
)


ADAM_LR_HUGE = Case(
    name="adam_lr_one_half",
    why="Adam with lr 0.5: each step overwrites the weights with noise",
    make_module=gelu_net(adam(0.5)),
    make_loader=flat_mnist(seed=14),
    steps=200,
    seed=114,
    labels=labels("update_ratio_high"),
    also_true=labels("vanishing_gradient", "exploding_gradient"),
    cure=Cure("lr 1e-3", make_module=gelu_net(adam(1e-3))),
)


class RowGRU(LabelledModule):
    def __init__(self, lr: float) -> None:
        super().__init__(adam(lr))
        self.gru = nn.GRU(14, 32, batch_first=True)
        self.head = nn.Linear(32, DIGITS)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.gru(x)[0][:, -1])


GRU_LR_HUGE = Case(
    name="gru_adam_lr_one",
    why="Adam with lr 1.0 throws the gates to their limits in the first steps; the loss never recovers",
    make_module=lambda: RowGRU(1.0),
    make_loader=lambda: data.loader(data.mnist_rows(2048, size=14), seed=33),
    steps=200,
    seed=133,
    labels=labels("update_ratio_high"),
    cure=Cure("lr 5e-3", make_module=lambda: RowGRU(5e-3)),
)

SGD_LR_TINY = Case(
    name="sgd_lr_1e-7",
    why="the learning rate is a millionth of what works; weights hardly move while the loss is still high",
    make_module=lambda: Classifier(SmallConvNet(), sgd(1e-7)),
    make_loader=mnist_images(seed=15),
    steps=150,
    seed=115,
    labels=labels("update_ratio_low"),
    cure=Cure("lr 0.1", make_module=lambda: Classifier(SmallConvNet(), sgd(0.1))),
)

CLIPPED_EACH_STEP = Case(
    name="sgd_clip_norm_far_too_small",
    why="clip norm 0.005 against gradient norms near 1: each step is cut some 70-fold and SGD crawls",
    make_module=gelu_net(sgd(0.1)),
    make_loader=flat_mnist(seed=16),
    steps=200,
    seed=116,
    make_trainer_kwargs=lambda: {"gradient_clip_val": 0.005},
    labels=labels("clipping_dominates"),
    cure=Cure("clip norm 5", make_trainer_kwargs=lambda: {"gradient_clip_val": 5.0}),
)
