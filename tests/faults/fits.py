"""Fits in which something goes wrong at a step, and what is left of them."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger

from gradscope import GradScope
from tests.models import Batches, Classifier, mlp, trainer

BATCHES, AT = 40, 15
"""How many batches there are, and before which of them it happens."""

Fault = Callable[[pl.Trainer], None]


class Happens(pl.Callback):
    """Lets something happen before a batch."""

    def __init__(self, fault: Fault, at: int = AT) -> None:
        self._fault, self._at = fault, at

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: object) -> None:
        if args[1] == self._at:
            self._fault(trainer)


def fitted(folder: Path, *callbacks: pl.Callback, batches: int = BATCHES) -> str:
    """Fit with a log in `folder`, and return a digest of the weights that it ended with."""
    torch.manual_seed(0)
    model = Classifier(mlp())
    logger = TensorBoardLogger(folder, name="", version="")
    trainer(*callbacks, logger=logger).fit(model, Batches(batches))
    return digest(model)


def digest(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().numpy().data)
    return digest.hexdigest()


def scope() -> GradScope:
    return GradScope(every_n_steps=1, summary=False)


def event_file(trainer: pl.Trainer) -> Path:
    (path,) = Path(str(trainer.log_dir)).glob("*tfevents*")
    return path
