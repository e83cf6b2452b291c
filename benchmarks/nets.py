"""The nets that are measured, each with its batch, and the fit they are all trained by."""

import logging
import tempfile
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset


class Case(NamedTuple):
    """A net, and how to make a batch of inputs for it."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]


class Transformer(nn.Module):
    """12 encoder layers, and a classifier of the mean over the sequence."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, width // 64, 4 * width, batch_first=True, activation=nn.ReLU())
        self.encoder = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.head(self.encoder(x).mean(1)))


class Residual(nn.Module):
    """A dense layer and a ReLU beside a shortcut: a net of a thousand of them neither explodes nor vanishes."""

    def __init__(self, width: int, share: float) -> None:
        super().__init__()
        self.linear, self.act, self.share = nn.Linear(width, width), nn.ReLU(), share

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.act(self.linear(x)), alpha=self.share)


def mnist_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25),
        nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10),
    )  # fmt: skip


def deep_mlp(width: int) -> nn.Module:
    hidden = [layer for _ in range(48) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.ReLU(), *hidden, nn.Linear(width, 10))


def residual_mlp(layers: int, width: int, batch: int) -> Case:
    """A net of so many dense layers, each with a ReLU, and a classifier that is not counted."""

    def build() -> nn.Module:
        return nn.Sequential(*(Residual(width, 1 / layers) for _ in range(layers)), nn.Linear(width, 10))

    return Case(f"{layers} dense layers, width {width}, batch {batch}", build, lambda: torch.randn(batch, width))


CASES = {
    "cnn": Case("MNIST CNN, batch 128", mnist_cnn, lambda: torch.randn(128, 1, 28, 28)),
    "mlp": Case("50-layer MLP, width 256, batch 128", lambda: deep_mlp(256), lambda: torch.randn(128, 784)),
    "transformer": Case(
        "transformer, 12 x 256, batch 8 x 64", lambda: Transformer(256), lambda: torch.randn(8, 64, 256)
    ),
    "narrow": Case("50-layer MLP, width 32, batch 16", lambda: deep_mlp(32), lambda: torch.randn(16, 784)),
}
"""By the name that the command line knows them by. The last is the worst case: many layers of next to no work."""

LARGE = {
    "large-cnn": Case("MNIST CNN, batch 4,096", mnist_cnn, lambda: torch.randn(4096, 1, 28, 28)),
    "large-transformer": Case(
        "transformer, 12 x 1,024, batch 8 x 512", lambda: Transformer(1024), lambda: torch.randn(8, 512, 1024)
    ),
}
"""Further ones, which keep even a large GPU busy: there the host runs ahead of the device."""


class Training(pl.LightningModule):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # So slow that nothing much happens: a loss that jumps would make GradScope record steps out of turn.
        return torch.optim.AdamW(self.parameters(), 1e-5)


class Repeat(Dataset[tuple[Tensor, Tensor]]):
    """The same batch again and again, on the device already: loading must not disturb the measurement."""

    def __init__(self, batch: tuple[Tensor, Tensor], times: int) -> None:
        self._batch, self._times = batch, times

    def __len__(self) -> int:
        return self._times

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._batch


def fit(case: Case, steps: int, callbacks: Sequence[pl.Callback], device: str = "cpu") -> None:
    """Train a new net for so many steps, in one epoch, with TensorBoard logging."""
    quiet_lightning()
    torch.manual_seed(0)
    inputs = case.inputs()
    batch = inputs.to(device), torch.randint(0, 10, (len(inputs),)).to(device)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator=device, devices=1, max_epochs=1, callbacks=list(callbacks), logger=TensorBoardLogger(folder),
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(Training(case.build()), DataLoader(Repeat(batch, steps), batch_size=None))


def quiet_lightning() -> None:
    warnings.filterwarnings("ignore", module="pytorch_lightning|torch")
    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
