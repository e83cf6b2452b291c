"""Small models and Trainers for tests that fit for real."""

import itertools
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]

LIGHTNING = tuple(map(int, version("pytorch-lightning").split(".")[:2]))
"""Major and minor version: what Lightning did otherwise in an older one is no fault of what is tested."""

ANY_CHECKPOINT: dict[str, Any] = {"weights_only": False} if LIGHTNING >= (2, 6) else {}
"""What `Trainer.fit` is told, so that it loads a checkpoint with more than tensors: older ones do anyway."""


class Batches:
    """The same `number` random batches each time: inputs float32[size, features], labels int64[size]."""

    def __init__(self, number: int = 6, size: int = 16, features: int = 20, seed: int = 1) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.batches = [
            (torch.randn(size, features, generator=generator), torch.randint(0, 4, (size,), generator=generator))
            for _ in range(number)
        ]

    def __iter__(self) -> Any:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class Classifier(pl.LightningModule):
    """Any net under cross-entropy."""

    def __init__(self, net: nn.Module, lr: float = 0.1, optimizer: Callable[..., Any] = torch.optim.SGD) -> None:
        super().__init__()
        self.net = net
        self.lr = lr
        self.optimizer = optimizer

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters(), lr=self.lr)


class Validated(Classifier):
    """The same with a validation loop."""

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self.net(batch[0]), batch[1]))


class Net(nn.Module):
    """Any `modules` by name; `run` is the forward."""

    def __init__(self, run: Callable[[Any, Tensor], Any], **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.run = run

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def own_metrics(fitter: pl.Trainer) -> dict[str, Tensor]:
    """What callbacks can monitor, without what GradScope lets them monitor."""
    return {name: value for name, value in fitter.callback_metrics.items() if not name.startswith("gradscope/")}


def mlp(activation: Callable[[], nn.Module] = nn.ReLU, widths: Sequence[int] = (20, 16, 12, 4)) -> nn.Sequential:
    """Linear layers with `activation` between them: children "0", "1", … of a Sequential."""
    net = nn.Sequential()
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
        if i:
            net.append(activation())
        net.append(nn.Linear(fan_in, fan_out))
    return net


def trainer(*callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    """A quiet Trainer on one CPU without logger, checkpoints and bars."""
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "limit_val_batches": 0,
        "log_every_n_steps": 1,
    }
    return pl.Trainer(callbacks=list(callbacks), **(defaults | options))
