"""Trains one case with given callbacks: the same way for the oracle, the rule sets and GradScope."""

import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch

from zoo.case import Case
from zoo.modules import ZooModule


class Fitted(NamedTuple):
    """What is left of a fit, also of one that an exception ended: that is `error`."""

    trainer: pl.Trainer
    module: ZooModule
    seconds: float
    error: Exception | None


def fit(case: Case, callbacks: Sequence[pl.Callback]) -> Fitted:
    """Train `case` on one thread: nets this small gain nothing from a second.

    Raises:
        MissingImagesError: the case needs images that cannot be had.
    """
    torch.set_num_threads(1)
    with _quiet():
        pl.seed_everything(case.seed, verbose=False)
        module, loader = case.make_module(), case.make_loader()
        own: dict[str, Any] = case.make_trainer_kwargs()
        trainer = pl.Trainer(
            accelerator="cpu", devices=1, max_steps=case.steps, max_epochs=-1, log_every_n_steps=1, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            callbacks=list(callbacks), **own,
        )  # fmt: skip
        pl.seed_everything(case.seed + 1, verbose=False)
        error = None
        start = time.perf_counter()
        try:
            trainer.fit(module, loader)
        except Exception as e:  # what watches a sick run may stop it by raising
            error = e
    return Fitted(trainer, module, time.perf_counter() - start, error)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep to themselves what Lightning and GradScope have to say of sick runs: that is what is judged here."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric", "gradscope")]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
