"""Nets for `tests.modes`, as little of each as makes it go."""

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.optim import SGD
from torch.utils.checkpoint import checkpoint

from tests.models import Batch, Classifier, Net, mlp

Build = Callable[[], pl.LightningModule]


def wild(activation: Callable[[], nn.Module]) -> Build:
    """Some outputs saturate, and some units are dead."""

    def build() -> pl.LightningModule:
        net = mlp(activation)
        with torch.no_grad():
            for module in net:
                if isinstance(module, nn.Linear):
                    module.weight.mul_(4)
            net.get_parameter("0.bias")[:5] = -100
        return Classifier(net, lr=1e-3)

    return build


class Flickers(Classifier):
    """Each unit falls silent once, each for longer than the one before it."""

    def __init__(self) -> None:
        super().__init__(mlp(), lr=1e-3)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        with torch.no_grad():
            for unit, bias in enumerate(self.net.get_parameter("0.bias")):
                bias.fill_(-100.0 if 1 <= batch_idx < 2 + unit else 1.0)


def zero_head() -> pl.LightningModule:
    model = Classifier(mlp())
    for parameter in model.net.get_submodule("4").parameters():
        nn.init.zeros_(parameter)
    return model


def square() -> nn.Module:
    return nn.Linear(20, 20)


def doubles(net: Any, x: Tensor) -> Any:
    return net.act(net.enter(x)).mul_(2)


def twice(net: Any, x: Tensor) -> Any:
    return net.act(net.enter(net.act(net.enter(x))))[:, :4]


def ten_times(net: Any, x: Tensor) -> Any:
    for _ in range(10):
        x = net.act(net.enter(x))
    return x[:, :4]


def once_or_twice(net: Any, x: Tensor) -> Any:
    x = net.act(net.enter(x))
    return (net.act(net.enter(x) - 0.2) if x[0, 0] > 0 else x)[:, :4]


def checkpointed(net: Any, x: Tensor, reentrant: bool) -> Any:
    return checkpoint(net.body, net.enter(x), use_reentrant=reentrant)


class LateBranch(Classifier):
    """`branch` and the activation after it run from the thirteenth batch on."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__(Net(lambda n, x: n.body(x), body=mlp(nn.Tanh), branch=branch, act=nn.ReLU()))
        nn.init.constant_(list(branch.parameters())[-1][:1], -100.0)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        net: Any = self.net
        logits = net(batch[0])
        if batch_idx >= 12:
            logits = logits + net.act(net.branch(batch[0])).flatten(1).mean(1, keepdim=True) * batch[0][:, :4]
        return F.cross_entropy(logits, batch[1])


def steps_of(x: Tensor) -> Tensor:
    """Five steps of four features."""
    return x.reshape(len(x), 5, 4)


def recurrent(kind: type[nn.RNNBase]) -> Build:
    def build() -> pl.LightningModule:
        rnn: Any = kind
        run = lambda n, x: n.act(n.rnn(steps_of(x))[0][:, -1])  # noqa: E731
        return Classifier(Net(run, rnn=rnn(4, 4, num_layers=2, batch_first=True), act=nn.Tanh()))

    return build


def packed(net: Any, x: Tensor) -> Any:
    lengths = torch.arange(len(x)) % 5 + 1
    sequence = pack_padded_sequence(steps_of(x), lengths, batch_first=True, enforce_sorted=False)
    outputs, _ = pad_packed_sequence(net.rnn(sequence)[0], batch_first=True)
    return net.act(outputs.mean(1))


def loop(net: Any, x: Tensor) -> Any:
    hidden = x.new_zeros(len(x), 4)
    for step in steps_of(x).unbind(1):
        hidden = net.cell(step, hidden)
    return net.act(hidden)


def attends(net: Any, x: Tensor) -> Any:
    steps = steps_of(x)
    return net.act(net.attention(steps, steps, steps)[0].mean(1))


def encodes(net: Any, x: Tensor) -> Any:
    return net.encoder(steps_of(x)).mean(1)


class InFastPath(Classifier):
    """A frozen transformer layer in evaluation mode under a head that learns."""

    def __init__(self) -> None:
        encoder = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).requires_grad_(False)
        super().__init__(
            Net(lambda n, x: n.head(n.act(encodes(n, x))), encoder=encoder, act=nn.ReLU(), head=nn.Linear(4, 4))
        )

    def on_train_start(self) -> None:
        self.net.get_submodule("encoder").eval()

    def on_train_end(self) -> None:
        self.net.get_submodule("encoder").train()  # GradScope heeds every transformer layer of the process

    def configure_optimizers(self) -> Any:
        return SGD(self.net.get_submodule("head").parameters(), lr=0.1)


class Nested(nn.Module):
    """Gives out a dictionary of dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp()

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"deep": {"logits": self.inner(x), "names": ["a"]}, "pair": (x, None)}


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp()

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, None]]:
        return x, (self.inner(x), None)


def images(**options: Any) -> Build:
    """A convolution of which two channels are dead; `options` of `Module.to`."""

    def build() -> pl.LightningModule:
        conv = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        nn.init.constant_(conv[1].bias[:2], -100.0)  # type: ignore[index]
        run = lambda n, x: n.head(n.conv(x.reshape(-1, 1, 4, 5)).flatten(1))  # noqa: E731
        return Classifier(Net(run, conv=conv, head=nn.Linear(36, 4)).to(**options))

    return build


def tokens(x: Tensor) -> Tensor:
    return (x[:, :6].abs() * 4).long().clamp(max=9)


def sparse() -> nn.Module:
    run = lambda n, x: n.head(n.embed(tokens(x)).flatten(1))  # noqa: E731
    return Net(run, embed=nn.Embedding(10, 4, sparse=True), head=nn.Linear(24, 4))


def tied() -> pl.LightningModule:
    """The weights of the head are those of the embedding."""
    embed, head = nn.Embedding(10, 6), nn.Linear(6, 10)
    head.weight = embed.weight
    run = lambda n, x: n.head(n.act(n.embed(tokens(x)).mean(1)))  # noqa: E731
    return Classifier(Net(run, embed=embed, act=nn.Tanh(), head=head))


def parametrized() -> pl.LightningModule:
    net = mlp()
    torch.nn.utils.parametrizations.weight_norm(net[0])
    return Classifier(net)


def spectral(activation: Callable[[], nn.Module]) -> Build:
    """Each look at a weight takes the power iteration a step further."""

    def build() -> pl.LightningModule:
        net = mlp(activation)
        for layer in net:
            if isinstance(layer, nn.Linear):
                torch.nn.utils.parametrizations.spectral_norm(layer)
        return Classifier(net)

    return build


class OwnsParameters(Classifier):
    """The LightningModule itself has a parameter."""

    def __init__(self) -> None:
        super().__init__(mlp())
        self.temperature = nn.Parameter(torch.tensor(2.0))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]) * self.temperature, batch[1])


class InEvaluation(Classifier):
    """The net stays in evaluation mode."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Linear(20, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 4)))

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.net.eval()


class Odd(nn.Module):
    """Parameters of no dimension, without elements, transposed, in double precision, in a list, never used."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.nothing = nn.Parameter(torch.zeros(0, 3))
        self.transposed = nn.Parameter(torch.randn(4, 20).t())
        self.wide = nn.Parameter(torch.randn(4, dtype=torch.float64))
        self.listed = nn.ParameterList([nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(1))])
        self.idle = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = (x @ self.transposed) * self.scale + self.nothing.sum() + self.listed[0] * self.listed[1]
        return inner.double() * self.wide


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(20, 4, dtype=torch.complex64) / 5)
        self.shift = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.shift + (x.to(torch.complex64) @ self.weight).abs()
