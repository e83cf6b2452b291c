"""Building blocks that the cases share."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

DIGITS = 10

MakeOptimizer = Callable[[Any], Any]
"""From a module to what its `configure_optimizers` returns."""

Init = Callable[[nn.Linear | nn.Conv2d], None]


def sgd(lr: float, momentum: float = 0.0) -> MakeOptimizer:
    return lambda module: torch.optim.SGD(trainable(module), lr=lr, momentum=momentum)


def adam(lr: float) -> MakeOptimizer:
    return lambda module: torch.optim.Adam(trainable(module), lr=lr)


def adamw(lr: float) -> MakeOptimizer:
    return lambda module: torch.optim.AdamW(trainable(module), lr=lr)


def with_schedule(make_optimizer: MakeOptimizer, factor: Callable[[int], float]) -> MakeOptimizer:
    """Multiply the learning rate by factor(step), step by step."""

    def make(module: nn.Module) -> dict[str, Any]:
        optimizer = make_optimizer(module)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    return make


def trainable(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]


class ZooModule(pl.LightningModule):
    """A LightningModule whose loss can also be computed outside of a Trainer, by the oracle."""

    def __init__(self, make_optimizer: MakeOptimizer) -> None:
        super().__init__()
        self.make_optimizer = make_optimizer

    def compute_loss(self, batch: Any) -> Tensor:
        raise NotImplementedError

    def accuracy(self, batch: Any) -> float | None:
        return None

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        loss = self.compute_loss(batch)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return self.make_optimizer(self)


class LabelledModule(ZooModule):
    """Cross-entropy on the logits that forward(x) gives."""

    def compute_loss(self, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(self(x), y)

    @torch.no_grad()
    def accuracy(self, batch: Any) -> float:
        x, y = batch
        return float((self(x).argmax(1) == y).float().mean())


class Classifier(LabelledModule):
    """Cross-entropy on `net(x)`. The layers are reached as `net.<name>`."""

    def __init__(self, net: nn.Module, make_optimizer: MakeOptimizer) -> None:
        super().__init__(make_optimizer)
        self.net = net

    def forward(self, x: Tensor) -> Any:
        return self.net(x)


class SmallConvNet(nn.Sequential):
    """Two convolutions, each with a ReLU and a pooling, and a linear head."""

    def __init__(self, conv2_bias: float = 0.0) -> None:
        conv1, conv2 = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        super().__init__(
            OrderedDict[str, nn.Module](
                conv1=conv1,
                relu1=nn.ReLU(),
                pool1=nn.MaxPool2d(2),
                conv2=conv2,
                relu2=nn.ReLU(),
                pool2=nn.AdaptiveAvgPool2d(3),
                flatten=nn.Flatten(),
                head=nn.Linear(32 * 9, DIGITS),
            )
        )
        if conv2.bias is not None:
            nn.init.constant_(conv2.bias, conv2_bias)


def mlp(
    sizes: Sequence[int],
    activation: Callable[[], nn.Module],
    init: Init | None = None,
    dropout: Callable[[], nn.Module] | None = None,
    init_head: bool = True,
) -> nn.Sequential:
    """Return Linear layers fc1, fc2, ... with act1, act2, ... in between; the last Linear is `head`."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (n_in, n_out) in enumerate(pairwise(sizes[:-1]), start=1):
        layers[f"fc{i}"] = nn.Linear(n_in, n_out)
        layers[f"act{i}"] = activation()
        if dropout is not None:
            layers[f"drop{i}"] = dropout()
    layers["head"] = nn.Linear(sizes[-2], sizes[-1])
    net = nn.Sequential(layers)
    if init is not None:
        for name, layer in net.named_children():
            if isinstance(layer, nn.Linear) and (init_head or name != "head"):
                init(layer)
    return net


def gelu_net(make_optimizer: MakeOptimizer) -> Callable[[], ZooModule]:
    return lambda: Classifier(mlp([196, 64, 64, DIGITS], nn.GELU), make_optimizer)


def normal_init(std: float) -> Init:
    return _weights_by(lambda weight: nn.init.normal_(weight, std=std))


def kaiming_init(gain: float = 1.0) -> Init:
    """Return the initialization of He et al. for ReLU, times `gain`."""
    return _weights_by(lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu").mul_(gain))


def orthogonal_init(gain: float = 1.0) -> Init:
    return _weights_by(lambda weight: nn.init.orthogonal_(weight, gain=gain))


def lecun_normal(layer: nn.Linear | nn.Conv2d) -> None:
    """Give the weights variance 1/fan_in: what SELU asks for."""
    _weights_by(lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="linear"))(layer)


def _weights_by(fill: Callable[[Tensor], object]) -> Init:
    """Return what fills the weight of a layer by `fill`, and its bias with zeros."""

    @torch.no_grad()
    def init(layer: nn.Linear | nn.Conv2d) -> None:
        fill(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)

    return init
