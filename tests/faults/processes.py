"""Fits in processes of their own, started from a server that has imported everything: half a second each."""

import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from tests.faults.fits import digest, fitted, scope
from tests.faults.loaded import Numbers
from tests.models import Batches, Classifier, mlp, trainer

PATIENCE = 300
"""Seconds after which a process is given up."""

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.faults.processes", "gradscope.report"])


def started(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    process = CONTEXT.Process(target=_quietly, args=(target, *arguments))
    process.start()
    return process


def _quietly(target: Callable[..., None], *arguments: Any) -> None:
    torch.set_num_threads(1)
    logging.getLogger("pytorch_lightning").setLevel(logging.CRITICAL)
    logging.getLogger("pytorch_lightning.utilities").setLevel(logging.CRITICAL)
    target(*arguments)


def ended(process: BaseProcess) -> int:
    process.join(PATIENCE)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError("the fit hangs")
    return process.exitcode


def fit_with_checkpoints(folder: Path, batches: int, checkpoint: Path | None = None) -> None:
    """Fit with a log and a checkpoint every five steps, from `checkpoint` on if one is given."""
    torch.manual_seed(0)
    saving = ModelCheckpoint(folder / "checkpoints", save_last=True, every_n_train_steps=5)
    logger = TensorBoardLogger(folder, name="", version="")
    options: dict[str, Any] = {"enable_checkpointing": True, "logger": logger}
    trainer(scope(), saving, **options).fit(Classifier(mlp()), Batches(batches), ckpt_path=checkpoint)


def fit_and_tell(folder: Path, own: bool, at: int | None = None, name: str = "") -> None:
    """Fit, send oneself the signal called `name` before a batch, and write down what the weights became."""
    callbacks: list[pl.Callback] = [scope()] if own else []
    if at is not None:
        callbacks.append(Signals(at, name))
    try:
        outcome = fitted(folder / "log", *callbacks)
    except BaseException as error:
        outcome = f"{type(error).__name__} {error}"
        (folder / "outcome").write_text(outcome)
        raise
    (folder / "outcome").write_text(outcome)


class Signals(pl.Callback):
    def __init__(self, at: int, name: str) -> None:
        self._at, self._name = at, name

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: object) -> None:
        if args[1] == self._at:
            os.kill(os.getpid(), signal.Signals[self._name])
            time.sleep(0)  # the handler of Python runs between two of its instructions


def fit_with_workers(folder: Path, own: bool, method: str) -> None:
    """Fit on batches of two workers' making, and write down what the weights became and what is recorded."""
    torch.manual_seed(0)
    model, watching = Classifier(mlp()), scope()
    loader = DataLoader(Numbers(), batch_size=16, num_workers=2, multiprocessing_context=method)
    logger = TensorBoardLogger(folder / "log", name="", version="")
    trainer(*([watching] if own else []), logger=logger).fit(model, loader)
    (folder / "outcome").write_text(digest(model))
